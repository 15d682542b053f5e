"""Numbers of images in the short form that people write: `0-63,100`."""

import re
from collections.abc import Iterable
from itertools import groupby

from hdit_core.errors import UsageError

MOST_NUMBERS = 100_000_000
LARGEST_NUMBER = 2**62


def read_ranges(text: str) -> list[int]:
    """Return the numbers that `"0-63,100"` means, in rising order, each once.

    Raises:
        UsageError: it is no such list, or means more numbers than anybody draws.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > LARGEST_NUMBER:
            raise UsageError(f"--seeds {text}: expected numbers and ranges with commas between, for example 0-63,100")
        if last - first + len(numbers) >= MOST_NUMBERS:
            raise UsageError(f"--seeds {text}: more than {MOST_NUMBERS:,} images")
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def write_ranges(numbers: Iterable[int]) -> str:
    """Return the short form of rising numbers; `read_ranges` reads it."""
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return ",".join(runs)
