"""The optional arrays of a data set: the index of its condition images, and its vectors."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped

from hdit_core.data.format.manifest import CONDITION, VECTORS, Contents, load_rows
from hdit_core.data.format.shard import INDEX_DTYPE

VECTOR_DTYPE = np.dtype("<f4")


def load_condition_index(folder: Path, contents: Contents) -> Shaped[np.ndarray, " _"] | None:
    """Return the index of the condition images, rows of INDEX_DTYPE; None if the set has none.

    Raises:
        DataError: it is missing, damaged, or another file.
    """
    if contents.condition is None:
        return None
    return load_rows(folder, CONDITION, contents.condition.index, INDEX_DTYPE, contents.samples)


def load_vectors(folder: Path, contents: Contents) -> Float32[np.ndarray, "N E"] | None:
    """Return the vectors, one row per image; None if the set has none.

    Raises:
        DataError: they are missing, damaged, or another file.
    """
    if contents.vectors is None:
        return None
    return load_rows(folder, VECTORS, contents.vectors.file, VECTOR_DTYPE, contents.samples, contents.vectors.dim)
