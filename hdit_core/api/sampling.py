"""`load_denoiser` and `generate`: from a run to images in memory."""

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hdit_core.api.arguments import PathLike, path_argument, shown_progress, size_argument, whole_number
from hdit_core.devices import pick_device
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.generate.condition.sources import given_conditions
from hdit_core.generate.generate import concatenate
from hdit_core.generate.generate import generate as generate_batches
from hdit_core.generate.pipeline import Samples
from hdit_core.generate.settings import open_denoiser, sample_settings
from hdit_core.progress_bar import ProgressBar

if TYPE_CHECKING:
    from hdit_core.generate.condition.sources import Array


def load_denoiser(path: PathLike, *, weights: str | None = None, device: str = "auto") -> Denoiser:
    """Return the model of a run, a checkpoint, an exported model, or a safetensors file of hdit or k-diffusion.

    `denoiser(x, sigma, class_ids)` returns the denoised images. Its recipe has the run's default sampling settings, as
    `hdit sample` uses them.

    Args:
        path: of the run, checkpoint, folder or file.
        weights: `"ema"`, `"model"` (raw), or an EMA length such as `"0.08"`; default: the run's, else `"ema"`.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...

    Raises:
        CheckpointError: there is nothing at the path, it is damaged, or it has no such weights.
        UsageError: there are no such weights or no such device.
    """
    return open_denoiser(path_argument(path, "path"), weights, pick_device(device))[0]


def generate(
    model: Denoiser | PathLike,
    n: int,
    *,
    seed: int = 0,
    class_ids: int | Sequence[int] | None = None,
    condition: "Array | PathLike | None" = None,
    vector: "Array | PathLike | None" = None,
    size: int | tuple[int, int] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Samples:
    """Return images 0 to n - 1 of a seed, the same as those of `hdit sample`, in memory.

    Args:
        model: from `load_denoiser`, or what that takes.
        n: number of images.
        seed: of all noise.
        class_ids: one class for all images, or one for each; default: the classes in turn.
        condition: condition images [N, K, H, W] in [-1, 1], one for all [K, H, W], or a path as `--condition` takes it.
            Image i gets the i-th; after the last they repeat from the first.
        vector: conditioning vectors [N, E], one for all [E], or a path as `--vectors` takes it; repeated likewise.
        size: in pixels, one number or (height, width); default: the training size.
        progress: show progress and messages on stderr.
        settings: keys of the recipe's `[sample]`, such as `steps`, `sampler`, `guidance` and `batch_size`.

    Raises:
        RecipeError: there is no such setting, or its value is wrong.
        UsageError: the network has no such class, takes other conditions, or cannot process the size.
        NumericalError: an image became NaN or infinite.
        CheckpointError, DataError: the model as in `load_denoiser`, or conditions in files, are damaged.
    """
    whole_number(n, "n", at_least=1)
    whole_number(seed, "seed")
    with shown_progress(progress, "sample", n) as bar:
        denoiser = model if isinstance(model, Denoiser) else load_denoiser(model)
        pixels = denoiser.recipe.model.image_size if size is None else size_argument(size)
        given = (_given(condition, "condition"), _given(vector, "vector"))
        classes = None if class_ids is None else _classes(class_ids, n)
        return concatenate(_counted(_batches(denoiser, n, seed, classes, given, pixels, settings), bar))


def _batches(
    denoiser: Denoiser,
    n: int,
    seed: int,
    classes: list[int] | None,
    given: "tuple[Array | str | None, Array | str | None]",
    size: tuple[int, int],
    settings: Mapping[str, Any],
) -> Iterator[Samples]:
    return generate_batches(
        denoiser,
        range(n),
        seed=seed,
        class_ids=classes,
        settings=sample_settings(denoiser.recipe, **settings),
        image_size=size,
        conditions=given_conditions(denoiser.recipe, size, seed, *given),
    )


def _given(value: "Array | PathLike | None", name: str) -> "Array | str | None":
    """Return an array as it is, or a path as a string."""
    if value is None or not isinstance(value, str | os.PathLike):
        return value
    return path_argument(value, name)


def _classes(class_ids: int | Sequence[int], n: int) -> list[int]:
    """Return the class of each image."""
    try:
        return [class_ids] * n if isinstance(class_ids, int) else [operator.index(class_id) for class_id in class_ids]
    except TypeError:
        raise TypeError(f"class_ids: expected a class, or one for each image, got {class_ids!r}") from None


def _counted(batches: Iterator[Samples], bar: ProgressBar) -> Iterator[Samples]:
    done = 0
    bar.update(done)
    for batch in batches:
        yield batch
        done += len(batch)
        bar.update(done)
