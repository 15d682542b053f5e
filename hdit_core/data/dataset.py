"""A prepared data set as a torch map-style dataset, for training loops and tools other than hdit's."""

import operator
from os import PathLike, fspath
from pathlib import Path
from typing import SupportsIndex

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from hdit_core.data.loader.build import open_reader
from hdit_core.data.remote.cache import is_remote
from hdit_core.errors import UsageError
from hdit_core.images import from_uint8
from hdit_core.recipe.data import DataRecipe

Sample = tuple[Float[Tensor, "C H W"] | UInt8[Tensor, "C H W"], int]
"""An image and its class, -1 where the images have no classes."""

DTYPES = ("float32", "uint8")


class PreparedDataset(Dataset[Sample]):
    """The images and classes of a set that `hdit prepare-data` wrote; works with any `torch.utils.data.DataLoader`.

        dataset = PreparedDataset("data/faces")
        image, class_id = dataset[0]  # [C, H, W] in [-1, 1], and -1 without classes

    The images are those of `hdit train` without augmentation. The dataset can be pickled: any number of workers reads
    from it, started by fork, spawn or forkserver.

    Attributes:
        path: of the data set.
        classes: class names in index order; empty without classes.
    """

    def __init__(self, path: str | PathLike[str], dtype: str = "float32") -> None:
        """Open a data set; no image is read yet.

        Args:
            path: the folder that `hdit prepare-data` wrote, or its address on a remote store.
            dtype: `"float32"` for images in [-1, 1], `"uint8"` for the stored bytes.

        Raises:
            UsageError: there is no such dtype.
            DataError: the data set is missing or damaged.
        """
        if dtype not in DTYPES:
            raise UsageError(f"{path}: dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        if not isinstance(path, str | PathLike):
            raise TypeError(f"path: expected a path (str or pathlib.Path), got {type(path).__name__}")
        location = fspath(path)
        self.path = location if is_remote(location) else str(Path(location).expanduser())
        self.dtype = dtype
        self._reader = open_reader(DataRecipe(path=self.path))
        self.classes = tuple(self._reader.manifest.contents.classes or ())

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: SupportsIndex) -> Sample:
        """Return an image and its class.

        Raises:
            IndexError: there is no such image.
            DataError: its bytes are not those that were stored.
            StorageUnavailable: the storage did not answer.
        """
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(f"{self.path}: expected the number of an image, got {index!r}") from None
        image_u8, class_id = self._reader.read(number)
        if self.dtype == "uint8":
            return torch.from_numpy(image_u8.transpose(2, 0, 1).copy()), class_id
        return from_uint8(image_u8[None].copy())[0], class_id

    def class_id(self, index: int) -> int:
        """Return the class of an image without reading it, -1 without one; for samplers that balance classes."""
        return self._reader.label(index)

    def image_shape(self, index: int = 0) -> tuple[int, int, int]:
        """Return channels, height and width of an image; they are the same for all images of a set without buckets."""
        height, width, channels = self._reader.shape(index)
        return channels, height, width
