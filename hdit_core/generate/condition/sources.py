"""Conditions of samples by image index: the i-th condition image and vector of a set, which repeats after its last."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.image.arrays.npy import read_npy
from hdit_core.data.image.decode import UnusableImageError
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import DataError, UsageError
from hdit_core.files import read_bytes
from hdit_core.generate.condition.condition_images import Conditioned, ConditionMaker
from hdit_core.generate.condition.inputs import NamedInputs, open_inputs
from hdit_core.generate.pipeline import ConditionInputs, ConditionSource
from hdit_core.images import to_float
from hdit_core.recipe.run import Recipe

LARGEST_VECTORS_BYTES = 1 << 32

Array = Float[Tensor, "..."] | Float[np.ndarray, "..."]
VectorOf = Callable[[int], Float[Tensor, " E"]]
"""Returns the vector of the image of an index."""


@dataclass(frozen=True)
class Conditions:
    """Condition images and vectors by image index: a `ConditionSource`.

    Attributes:
        image: returns the condition image of an index; None for a network that takes none.
        vector: returns the vector of an index; None for a network that takes none.
        provenance: where they come from, with hashes.
    """

    image: Callable[[int], Conditioned] | None
    vector: VectorOf | None
    provenance: dict[str, Any]

    def __call__(self, indices: list[int]) -> ConditionInputs:
        """Return the conditions of some images."""
        return ConditionInputs(
            None if self.image is None else torch.stack([self.image(index).condition for index in indices]),
            None if self.vector is None else torch.stack([self.vector(index) for index in indices]),
        )


def open_conditions(
    recipe: Recipe, size: tuple[int, int], seed: int, condition: str | None, vectors: Path | None
) -> Conditions | None:
    """Return the conditions in files; None if none are given.

    Args:
        recipe: of the network.
        size: height and width of the samples.
        seed: of the recipe's degradations, where they are applied to the images of a prepared set.
        condition: a folder, an archive or one image, as `hdit restore` takes them; or a prepared data set.
        vectors: a .npy of [N, E] or [E] numbers, or a prepared data set.

    Raises:
        UsageError: the network takes no such condition, or there is nothing at the path.
        DataError: they are damaged, or of another shape than the network takes.
    """
    if condition is None and vectors is None:
        return None
    provenance: dict[str, Any] = {}
    image = vector = None
    if condition is not None:
        if not recipe.condition_image_channels:
            raise UsageError(f"--condition {condition}: the network was trained without condition images; leave it out")
        image, provenance["images"] = _images(recipe, size, seed, condition)
    if vectors is not None:
        vector, provenance["vectors"] = open_vectors(recipe, vectors)
    return Conditions(image, vector, provenance)


def given_conditions(
    recipe: Recipe, size: tuple[int, int], seed: int, condition: Array | str | None, vectors: Array | str | None
) -> ConditionSource | None:
    """Return the conditions in arrays or files; None if none are given.

    Args:
        recipe, size, seed: as for `open_conditions`.
        condition: images [N, K, H, W] in [-1, 1], one [K, H, W], or where they are.
        vectors: [N, E], one [E], or where they are.

    Raises:
        UsageError: an array has other dimensions; and as `open_conditions`.
        DataError: as `open_conditions`.
    """
    if condition is None and vectors is None:
        return None
    images, rows = _as_tensor(condition, "condition", 4), _as_tensor(vectors, "vector", 2)
    location = condition if isinstance(condition, str) else None
    opened = open_conditions(recipe, size, seed, location, Path(vectors) if isinstance(vectors, str) else None)

    def of(indices: list[int]) -> ConditionInputs:
        inputs = ConditionInputs() if opened is None else opened(indices)
        return ConditionInputs(
            inputs.condition if images is None else images[[index % len(images) for index in indices]],
            inputs.vector if rows is None else rows[[index % len(rows) for index in indices]],
        )

    return of


def _as_tensor(values: Array | str | None, name: str, dimensions: int) -> Tensor | None:
    """Return an array with a dimension for the images, which a single one may lack; None for a path."""
    if values is None or isinstance(values, str):
        return None
    tensor = torch.as_tensor(values, dtype=torch.float32, device="cpu")
    tensor = tensor[None] if tensor.ndim == dimensions - 1 else tensor
    if tensor.ndim != dimensions or not len(tensor):
        expected = "[N, K, H, W] or [K, H, W]" if dimensions == 4 else "[N, E] or [E]"
        raise UsageError(f"{name}: an array of shape {list(tensor.shape)}; expected {expected}")
    return tensor


def _images(
    recipe: Recipe, size: tuple[int, int], seed: int, location: str
) -> tuple[Callable[[int], Conditioned], dict[str, str]]:
    if (Path(location) / MANIFEST).is_file():
        reader = ImageReader(Path(location), cache_bytes=0)
        replace(conditioning_of(recipe), vector_dim=0).check(reader)
        source = {"path": location, "root": reader.manifest.root}
        return lambda index: _of_set(reader, recipe, size, seed, index), source
    inputs, maker = open_inputs(location), ConditionMaker(recipe)
    return lambda index: _of_file(inputs, maker, size, index), {"path": location, "sha256": _hash(inputs)}


def _of_set(reader: ImageReader, recipe: Recipe, size: tuple[int, int], seed: int, index: int) -> Conditioned:
    member, conditioning = index % len(reader), replace(conditioning_of(recipe), vector_dim=0, dropout=0.0)
    sample = conditioning.read(reader, member)
    image = to_float(sample.image[None], reader.manifest.contents.pixels.ranges)
    condition = conditioning.images_of(reader, [sample], image, seed, [index])
    assert condition is not None  # the network takes one
    _check_size(reader.where(member), condition[0], size)
    return Conditioned(condition[0], target=image[0])


def _of_file(inputs: NamedInputs, maker: ConditionMaker, size: tuple[int, int], index: int) -> Conditioned:
    source_index = index % len(inputs)
    where = f"{inputs.location}: {inputs.names[source_index]}"
    try:
        image = inputs.read(source_index)
        mask = image.transparent() if maker.takes_mask else None
        if maker.takes_mask and mask is None:
            raise UnusableImageError("has no transparent pixels, which would be filled in; hdit restore takes --mask")
        made = maker.make(image.pixels(maker.input_pixels), index, mask)
    except UnusableImageError as problem:
        raise DataError(f"{where}: {problem}") from None
    _check_size(where, made.condition, size)
    return made


def _check_size(where: str, condition: Float[Tensor, "K H W"], size: tuple[int, int]) -> None:
    found = (condition.shape[1], condition.shape[2])
    if found != size:
        sizes = [f"{height}x{width}" for height, width in (found, size)]
        raise DataError(
            f"{where}: is a condition for images of {sizes[0]}, the samples are {sizes[1]}; give --size {sizes[0]}, or "
            "use hdit restore, which takes any size"
        )


def _hash(inputs: NamedInputs) -> str:
    """Return a hash of the names and contents of all inputs."""
    sha256 = hashlib.sha256()
    for source_index, name in enumerate(inputs.names):
        try:
            content = inputs.read(source_index).sha256
        except UnusableImageError as problem:
            raise DataError(f"{inputs.location}: {name}: {problem}") from None
        sha256.update(f"{len(name)} {name} {content};".encode(errors="surrogateescape"))
    return sha256.hexdigest()


def open_vectors(recipe: Recipe, path: Path) -> tuple[VectorOf, dict[str, str]]:
    """Return a function from image indices to the vectors in a file, which repeat after the last; and their provenance.

    Args:
        recipe: of the network.
        path: a .npy of [N, E] or [E] numbers, or a prepared data set.

    Raises:
        UsageError: the network takes no vectors, or there is nothing at `path`.
        DataError: they are damaged, or of another length than the network takes.
    """
    length = recipe.model.mapping_cond_dim
    if not length:
        raise UsageError(f"--vectors {path}: the network was trained without vectors; leave it out")
    if (path / MANIFEST).is_file():
        reader = ImageReader(path, cache_bytes=0)
        if reader.vector_dim != length:
            raise DataError(
                f"{path}: has vectors of {reader.vector_dim} numbers (0: none); the network takes {length}, which "
                "hdit prepare-data --vectors stores"
            )
        return lambda index: _of_reader(reader, index), {"path": str(path), "root": reader.manifest.root}
    rows, sha256 = _read_vectors(path, length)
    return lambda index: torch.from_numpy(rows[index % len(rows)]), {"path": str(path), "sha256": sha256}


def _of_reader(reader: ImageReader, index: int) -> Float[Tensor, " E"]:
    vector = reader.vector(index % len(reader))
    assert vector is not None  # by vector_dim
    return torch.from_numpy(vector)


def _read_vectors(path: Path, length: int) -> tuple[Float32[np.ndarray, "N E"], str]:
    if not path.is_file():
        found = "is no prepared data set" if path.is_dir() else "no such file"
        raise UsageError(f"--vectors {path}: {found}; expected a .npy of N x {length} numbers, or a data set")
    if path.stat().st_size > LARGEST_VECTORS_BYTES:
        raise DataError(f"{path}: larger than {LARGEST_VECTORS_BYTES >> 30} GiB; give a part of it")
    content = read_bytes(path)
    try:
        array = read_npy(content)
    except ValueError as problem:
        raise DataError(f"{path}: {problem}") from None
    rows = array[None] if array.ndim == 1 else array
    if rows.ndim != 2 or rows.shape[1] != length or not len(rows):
        shape = "x".join(map(str, array.shape))
        raise DataError(f"{path}: has {shape} numbers; expected N x {length}, or {length} for all images")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise DataError(f"{path}: row {row} has NaN or infinite numbers; expected finite ones")
    return rows.astype(np.float32), hashlib.sha256(content).hexdigest()
