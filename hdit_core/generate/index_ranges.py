"""Image indices in their short form: `0-63,100`."""

import re
from collections.abc import Iterable
from itertools import groupby

from hdit_core.errors import UsageError

MOST_INDICES = 10_000_000
"""In one command: larger sets of samples are several commands, with `--indices`."""

MOST_RECORDED = 10 * MOST_INDICES
"""In one folder, which several commands fill."""

LARGEST_INDEX = 2**62


def read_ranges(text: str, most: int = MOST_INDICES) -> list[int]:
    """Return the indices that `"0-63,100"` lists, sorted, without repeats.

    Args:
        text: indices and ranges.
        most: how many there may be.

    Raises:
        UsageError: the text is no such list, or lists too many indices.
    """
    indices: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > LARGEST_INDEX:
            raise UsageError(f"--indices {text}: expected indices and ranges separated by commas, for example 0-63,100")
        if last - first + len(indices) >= most:
            raise UsageError(f"--indices {text}: more than {most:,} images")
        indices.update(range(first, last + 1))
    return sorted(indices)


def first_indices(count: int) -> list[int]:
    """Return the indices of the first `count` images.

    Raises:
        UsageError: there are too many for one command.
    """
    if count > MOST_INDICES:
        raise UsageError(
            f"--count {count:,}: at most {MOST_INDICES:,} images in one command; for more, give each command a "
            f"range of its own, such as --indices {MOST_INDICES}-{2 * MOST_INDICES - 1}"
        )
    return list(range(count))


def write_ranges(indices: Iterable[int]) -> str:
    """Return the short form of increasing indices, as `read_ranges` reads it."""
    runs = []
    for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        runs.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return ",".join(runs)
