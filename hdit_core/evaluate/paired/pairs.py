"""Which images of two sets belong together: those of the same name, or of the same position."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hdit_core.data.image_sets.image_set import ImageSet, ReadImage
from hdit_core.data.sources.source import without_ending
from hdit_core.errors import DataError, UsageError
from hdit_core.randomness import stream


@dataclass(frozen=True)
class Pair:
    """An image and its original.

    Attributes:
        name: for messages and results.
        image, original: functions that read them.
    """

    name: str
    image: ReadImage
    original: ReadImage


@dataclass(frozen=True)
class Pairs:
    """The pairs of two sets.

    Attributes:
        images, originals: the sets.
        matched_by: "name", or "order" where one of the sets has no file names.
        indices: of each pair, the indices in both sets, ascending in the images; None for a stream, in its order.
    """

    images: ImageSet
    originals: ImageSet
    matched_by: Literal["name", "order"]
    indices: list[tuple[int, int]] | None

    def __iter__(self) -> Iterator[Pair]:
        """Yield all pairs.

        Raises:
            DataError: a stream has more or fewer images than the other set.
        """
        if self.indices is None:
            yield from self._streamed()
            return
        yield from self.chosen(range(len(self.indices)))

    def chosen(self, numbers: Sequence[int]) -> Iterator[Pair]:
        """Yield the pairs of these numbers, ascending; not of a stream."""
        assert self.indices is not None
        indices = [self.indices[number] for number in numbers]
        originals = _in_any_order(self.originals, [original for _, original in indices])
        images = self.images.open([image for image, _ in indices])
        for (index, _), image, original in zip(indices, images, originals, strict=True):
            yield Pair(self._name(index), image, original)

    def _name(self, index: int) -> str:
        return self.images.names[index] if self.images.names else f"image {index}"

    def _streamed(self) -> Iterator[Pair]:
        images, originals, count = self.images.readers(), self.originals.readers(), 0
        for image in images:
            original = next(originals, None)
            if original is None:
                raise DataError(_counts_differ(self, f"more than {count}", str(count)))
            yield Pair(f"image {count}", image, original)
            count += 1
        if next(originals, None) is not None:
            raise DataError(_counts_differ(self, str(count), f"more than {count}"))


def _in_any_order(images: ImageSet, indices: list[int]) -> Iterator[ReadImage]:
    """Yield the reading functions of images in any order; archives that only go forward are opened once per image."""
    if indices == sorted(indices):
        yield from images.open(indices)
        return
    for index in indices:
        yield next(iter(images.open([index])))


def match(images: ImageSet, originals: ImageSet, n: int | None = None, seed: int = 0) -> Pairs:
    """Return the pairs of two sets: by file name without ending, or by order where one set has no names.

    Args:
        images, originals: the sets.
        n: how many of the pairs, chosen at random; default all.
        seed: of that choice.

    Raises:
        DataError: an image has no partner, two have the same name, or there are fewer than n pairs.
        UsageError: one set is a stream, and n is given.
    """
    if None in (images.count, originals.count):
        if n is not None:
            raise UsageError(f"--count {n}: all images of a stream are scored; send only {n} of them")
        return Pairs(images, originals, "order", None)
    if images.names and originals.names:
        pairs = Pairs(images, originals, "name", _by_name(images, originals))
    else:
        pairs = Pairs(images, originals, "order", [(index, index) for index in range(images.count or 0)])
        if images.count != originals.count:
            raise DataError(_counts_differ(pairs, str(images.count), str(originals.count)))
    return pairs if n is None else _choose(pairs, n, seed)


def _by_name(images: ImageSet, originals: ImageSet) -> list[tuple[int, int]]:
    index_of, wanted = _indices(originals), _indices(images)
    for a, b, others in ((images, originals, index_of), (originals, images, wanted)):
        missing = [name for name in _indices(a) if name not in others]
        if missing:
            raise DataError(
                f"{a.source['path']}: {len(missing)} of {a.count} images have no partner of the same name in "
                f"{b.source['path']}, the first is {missing[0]!r}; give both sets the same names"
            )
    return [(index, index_of[name]) for name, index in wanted.items()]


def _indices(images: ImageSet) -> dict[str, int]:
    """Return the position of each image by its name without ending.

    Raises:
        DataError: two images have the same name.
    """
    indices: dict[str, int] = {}
    for index, name in enumerate(images.names or ()):
        key = without_ending(name)
        if key in indices:
            raise DataError(
                f"{images.source['path']}: has two images named {key!r}, which differ in their endings only; "
                "rename or remove one"
            )
        indices[key] = index
    return indices


def _counts_differ(pairs: Pairs, images: str, originals: str) -> str:
    return (
        f"{pairs.images.source['path']}: has {images} images, {pairs.originals.source['path']} has {originals}; "
        "expected pairs in the same order"
    )


def _choose(pairs: Pairs, n: int, seed: int) -> Pairs:
    assert pairs.indices is not None
    count = len(pairs.indices)
    if n > count:
        raise DataError(f"{pairs.images.source['path']}: --count {n}: there are only {count} pairs")
    chosen = sorted(int(number) for number in stream(seed, "score-subset", 0).choice(count, n, replace=False))
    return Pairs(pairs.images, pairs.originals, pairs.matched_by, [pairs.indices[number] for number in chosen])
