"""The output folder of `hdit restore`: a file for each input, a log of them, and the record `samples.json`.

Each output is written atomically and then logged with the hash of its input, so that the same command resumes: it keeps
what is intact and whose input has not changed. Several ranks write into one folder, each its own log.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hdit_core.data.format.retry_reads import retry_transient
from hdit_core.data.image.decode import UnusableImageError
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import UsageError
from hdit_core.files import crc32, read_bytes, remove_temporaries, write_atomic
from hdit_core.generate.condition.inputs import InputImage, output_name, path_of
from hdit_core.generate.output.sample_folder import RECORD, recorded_images, write_grid, write_record
from hdit_core.generate.output.sample_format import SampleFormat
from hdit_core.jsonl import append, cut_back, read

LOG = "restored-{rank:05d}.jsonl"
LOGS = "restored-*.jsonl"


@dataclass
class RestoredFolder:
    """A new or resumed folder of restored images.

    Attributes:
        folder: where they go.
        provenance: the settings that determine the pixels, apart from the inputs.
        format: of the files: that of the samples of the network; 16-bit and float TIFF stay TIFF.
        rank: of this process.
        source: of the model, for people.
    """

    folder: Path
    provenance: dict[str, Any]
    format: SampleFormat
    rank: int = 0
    source: ModelSource = field(default_factory=ModelSource)
    _logged: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Add the format of the files' values to the provenance."""
        self.provenance = self.provenance | self.format.provenance()

    def begin(self) -> None:
        """Create the folder, or check that it is this job's; called by the main rank before the others begin.

        Raises:
            UsageError: the folder contains something else, or images of another job, or a package is missing.
        """
        self.format.check()
        path = self.folder / RECORD
        if not path.is_file() and self.folder.exists() and not self._is_empty():
            raise UsageError(f"{self.folder}: exists and is not a folder of restored images; choose another with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            recorded_images(self.folder, self.provenance, self.source.to_json())
        else:
            write_record(
                self.folder, {"status": "unfinished", "model": self.source.to_json(), "origin": self.provenance}
            )
        for log in self.folder.glob(LOGS):
            cut_back(log, lambda row: "file" in row)  # unusable inputs are tried again

    def _is_empty(self) -> bool:
        return self.folder.is_dir() and not any(self.folder.iterdir())

    def load_logs(self) -> None:
        """Read what earlier commands logged; called on every rank after `begin`."""
        for log in sorted(self.folder.glob(LOGS)):
            self._logged |= {str(row["file"]): row for row in read(log) if "file" in row}

    @property
    def _log(self) -> Path:
        return self.folder / LOG.format(rank=self.rank)

    def name(self, name: str) -> str:
        """Return the name of the file for an input.

        Raises:
            UnusableImageError: a package that writes it is missing.
        """
        return output_name(name, self.format.ending_for(name))

    def holds(self, name: str, input_sha256: str) -> bool:
        """Return whether the image of an input exists, is intact, and was made from an input of this hash."""
        file = self.name(name)
        row, path = self._logged.get(file), path_of(self.folder, file)
        try:
            return row is not None and row.get("input_sha256") == input_sha256 and row.get("crc32") == crc32(path)
        except OSError:
            return False

    def write(self, name: str, input_sha256: str, image: Float[Tensor, "C H W"]) -> None:
        """Write the image of an input."""
        file = self.name(name)
        path = path_of(self.folder, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.format.file(image, path.suffix))
        row = {"file": file, "input": name, "input_sha256": input_sha256, "crc32": crc32(path)}
        append(self._log, row)
        self._logged[file] = row

    def log_unusable(self, name: str, reason: str) -> None:
        """Log an input that cannot be restored."""
        append(self._log, {"unusable": name, "reason": reason})

    def read(self, file: str) -> Float[Tensor, "C H W"] | None:
        """Return an image of the folder in [-1, 1]; None if it is missing or damaged."""
        path = path_of(self.folder, file)
        try:
            return InputImage(file, retry_transient(path, lambda: read_bytes(path))).pixels(self.format.pixels)
        except (FileNotFoundError, UnusableImageError):
            return None

    def finish(self, source: str, num_images: int, sheet: bytes | None) -> dict[str, Any]:
        """Write the grid and the record, and return the record; called by the main rank when all are done.

        Args:
            source: where the inputs came from.
            num_images: number of images of this job.
            sheet: the grid, a PNG; None without one.
        """
        rows = [row for log in sorted(self.folder.glob(LOGS)) for row in read(log)]
        made = {row["file"]: (row["input"], row["input_sha256"]) for row in rows if "file" in row}  # once or again
        for folder in {self.folder, *(path_of(self.folder, file).parent for file in made)}:
            remove_temporaries(folder)
        if sheet is not None:
            write_grid(self.folder, sheet)
        record = complete_record(
            source,
            num_images,
            inputs=made.values(),
            unusable={row["unusable"]: row["reason"] for row in rows if "unusable" in row},
            model=self.source,
            provenance=self.provenance,
        )
        write_record(self.folder, record)
        return record


def complete_record(
    source: str,
    num_images: int,
    *,
    inputs: Iterable[tuple[str, str]],
    unusable: Mapping[str, str],
    model: ModelSource,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record of a finished job, the content of `samples.json`.

    Args:
        source: where the inputs came from.
        num_images: number of images.
        inputs: name and hash of each restored input.
        unusable: names of the others, with the reasons.
        model: where the model comes from, for people.
        provenance: the settings that determine the pixels, apart from the inputs.
    """
    lines = sorted(f"{name} {sha256}" for name, sha256 in inputs)
    digest = hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
    return {
        "status": "complete",
        "num_images": num_images,
        "inputs": {"path": source, "sha256": digest},
        "unusable": dict(unusable),
        "model": model.to_json(),
        "origin": dict(provenance),
    }
