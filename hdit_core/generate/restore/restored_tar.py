"""Restored images in one tar, under the names of their inputs; it is written sequentially and cannot be resumed."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.precondition import ModelSource
from hdit_core.generate.condition.inputs import output_name
from hdit_core.generate.output.archives import TarStream
from hdit_core.generate.restore.restored_folder import complete_record


class RestoredTar(TarStream):
    """A tar of restored images: a context manager, as other streams are."""

    def __enter__(self) -> "RestoredTar":
        super().__enter__()
        return self

    def name(self, name: str) -> str:
        """Return the name of the file for an input.

        Raises:
            UnusableImageError: a package that writes it is missing.
        """
        return output_name(name, self.format.ending_for(name))

    def holds(self, name: str, input_sha256: str) -> bool:
        """Return False: a tar that exists is never continued."""
        return False

    def write(self, name: str, input_sha256: str, image: Float[Tensor, "C H W"]) -> None:
        """Append the image of an input."""
        key, _, suffix = self.name(name).rpartition(".")
        self.append(key, suffix, self.format.file(image, suffix))
        self._inputs.append((name, input_sha256))

    def log_unusable(self, name: str, reason: str) -> None:
        """Remember an input that cannot be restored, for the record."""
        self._unusable[name] = reason

    def record(self, source: str, provenance: dict[str, Any], model: ModelSource) -> dict[str, Any]:
        """Return the content of `samples.json` of a folder.

        Args:
            source: where the inputs came from.
            provenance: the settings that determine the pixels, apart from the inputs.
            model: where the model comes from, for people.
        """
        return complete_record(
            source,
            len(self._inputs),
            inputs=self._inputs,
            unusable=self._unusable,
            model=model,
            provenance=provenance | self.format.provenance(),
        )

    def _open(self, file: Any) -> None:
        self._inputs: list[tuple[str, str]] = []
        self._unusable: dict[str, str] = {}
        super()._open(file)
