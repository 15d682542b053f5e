"""What lies in a shard: its samples in their order, each with the place of its image, label and facts."""

import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

LARGEST_NOTE_BYTES = 1 << 20  # of a .json or .cls


@dataclass
class Stored:
    """One sample as it lies in the tar."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # suffix: first byte, number of bytes

    def note(self, descriptor: int, suffix: str) -> bytes:
        """Return the content of its .json or .cls.

        Raises:
            KeyError: it has none.
        """
        offset, length = self.members[suffix]
        return os.pread(descriptor, min(length, LARGEST_NOTE_BYTES), offset)

    def about(self, descriptor: int) -> dict[str, str]:
        """Return what its .json says.

        Raises:
            ValueError, KeyError, RecursionError: it is damaged or missing.
        """
        facts = json.loads(self.note(descriptor, "json"))
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise ValueError("its .json is not that of a sample")
        return facts


def stored_samples(path: Path) -> list[Stored]:
    """Return the samples of a shard: members that lie side by side and share a key.

    Raises:
        tarfile.TarError, OSError, ValueError: it is damaged.
    """
    found: list[Stored] = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if not found or found[-1].key != key:
                found.append(Stored(key))
            if not member.isreg() or suffix in found[-1].members:
                raise ValueError(f"{member.name!r} is no file, or is there twice")
            found[-1].members[suffix] = (member.offset_data, member.size)
    return found
