"""Builds the reader and the order from the `[data]` table of a recipe."""

from collections.abc import Sequence
from heapq import nlargest
from itertools import accumulate

from hdit_core.data.format.manifest import Contents
from hdit_core.data.loader.bucket_order import BatchSizePhase, BucketOrder, SizeBucket
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import GOLDEN, BlockOrder, Order, UniformOrder
from hdit_core.data.remote.cache import RemoteDataset, default_cache, is_remote
from hdit_core.errors import DataError
from hdit_core.recipe.data import DataRecipe


def _check_cache(recipe: DataRecipe, contents: Contents) -> None:
    """Refuse a cache so small that shards would be fetched repeatedly."""
    sizes = [shard.bytes for shard in contents.shards]
    # images are read ahead, so two windows are in use at the same time
    needed_bytes = sum(sizes if recipe.order == "uniform" else nlargest(2 * recipe.block_shards, sizes))
    if needed_bytes > recipe.cache_gb * 1e9:
        hint = ", or set data.order = 'blocks'" if recipe.order == "uniform" else ", or lower data.block_shards"
        raise DataError(
            f"{recipe.path}: with data.order = '{recipe.order}' {needed_bytes / 1e9:.3g} GB are in use at a "
            f"time, and data.cache_gb is {recipe.cache_gb:g}; raise it to {needed_bytes / 1e9 * 1.01:.3g}{hint}"
        )


def open_reader(recipe: DataRecipe) -> ImageReader:
    """Open the data set of a recipe, local or on a remote store.

    Raises:
        UsageError: the store is of an unknown kind, or a package for it is missing.
        DataError: a part is missing or damaged, cannot be fetched, or does not fit the cache.
    """
    remote = RemoteDataset(recipe.path, default_cache(), int(recipe.cache_gb * 1e9)) if is_remote(recipe.path) else None
    whole_shards = recipe.order == "blocks"
    reader = ImageReader(remote or recipe.path, max_damaged=recipe.max_damaged, whole_shards=whole_shards)
    if remote:
        _check_cache(recipe, reader.manifest.contents)
    return reader


def _order_within(recipe: DataRecipe, seed: int, shard_sizes: Sequence[int]) -> Order:
    if recipe.order == "blocks":
        return BlockOrder(seed, shard_sizes, recipe.block_shards)
    return UniformOrder(seed, sum(shard_sizes))


def build_order(recipe: DataRecipe, contents: Contents, seed: int, parts: Sequence[BatchSizePhase]) -> Order:
    """Return the order in which a run reads a data set.

    Args:
        seed: seed of the run, 0 <= seed < 2^64.
        parts: parts of the run with their batch sizes, on which the order of images of several sizes depends.
    """
    if len(contents.sizes) == 1:
        return _order_within(recipe, seed, [shard.samples for shard in contents.shards])
    ends = list(accumulate(size.samples for size in contents.sizes))
    shards = _shards_of_buckets([shard.samples for shard in contents.shards], ends)
    buckets = [
        SizeBucket(end - size.samples, size.samples, _order_within(recipe, (seed + i * int(GOLDEN)) % 2**64, shards[i]))
        for i, (size, end) in enumerate(zip(contents.sizes, ends, strict=True))
    ]
    return BucketOrder(seed, buckets, parts)


def _shards_of_buckets(shard_sizes: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    """Return the shard sizes of each bucket; a shard has images of one bucket."""
    dealt: list[list[int]] = [[] for _ in ends]
    bucket = 0
    for size, end in zip(shard_sizes, accumulate(shard_sizes), strict=True):
        while end > ends[bucket]:
            bucket += 1
        dealt[bucket].append(size)
    return dealt
