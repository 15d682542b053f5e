"""What is to be made: every input with its class, and what is done to it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hdit_core.data.convert import Rules, Task
from hdit_core.data.labels import Input
from hdit_core.data.source import Source


@dataclass(frozen=True)
class Work:
    """Everything that decides the result."""

    source: Source
    inputs: Sequence[Input]
    classes: tuple[str, ...] | None
    labels: Sequence[int]
    rules: Rules
    shard_size: int  # inputs a piece
    known_roots: tuple[str, ...] = ()  # data sets of which no image may be in this one
    drop_duplicates: bool = False

    @property
    def num_pieces(self) -> int:
        return -(-len(self.inputs) // self.shard_size)

    def inputs_of(self, piece: int) -> range:
        """Return the numbers of the inputs of a piece."""
        return range(piece * self.shard_size, min((piece + 1) * self.shard_size, len(self.inputs)))

    def settings(self) -> dict[str, str | int]:
        """What the manifest records beside the contents."""
        background = "#{:02x}{:02x}{:02x}".format(*self.rules.background)
        seed = {"seed": self.rules.seed} if self.rules.crop == "random" else {}
        quality = {"quality": self.rules.quality} if self.rules.codec == "jpeg" else {}
        buckets = {"sizes": ",".join(f"{height}x{width}" for height, width in self.rules.buckets)}
        return {
            "crop": self.rules.crop,
            "resize": self.rules.resize,
            "background": background,
            "shard_size": self.shard_size,
            **seed,
            **quality,
            **(buckets if self.rules.buckets else {}),
            **({"not_in": ",".join(self.known_roots)} if self.known_roots else {}),
            **({"duplicates": "dropped"} if self.drop_duplicates else {}),
        }

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes, times and classes of all inputs and of the settings."""
        hashed = hashlib.sha256(
            json.dumps([asdict(self.rules), self.settings(), self.source.kind, self.classes]).encode()
        )
        for number, one in enumerate(self.inputs):
            entry = self.source.entries[number] if number < len(self.source.entries) else None
            facts = (entry.size_bytes, entry.changed_at) if entry else ()
            hashed.update(json.dumps([one.name, one.class_name, one.problem, *facts]).encode())
        return hashed.hexdigest()

    def task(self, number: int) -> Task:
        """Return one input with its file."""
        one = self.inputs[number]
        return Task(number, one.name, self.labels[number], one.class_name, one.problem or self._content(number))

    def _content(self, number: int) -> bytes | Path | str:
        try:
            return self.source.fetch(number)
        except (OSError, ValueError) as problem:
            return str(problem)
