"""The ends of an interpolation, as people write them: the number of an image, or a file with a picture's noise."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hdit_core.errors import UsageError
from hdit_core.generate.generate import check_classes
from hdit_core.generate.invert import read_noise
from hdit_core.generate.painter import Painter
from hdit_core.generate.ranges import LARGEST_NUMBER


@dataclass(frozen=True)
class End:
    """One end of the way.

    Attributes:
        start: the standard normal noise that it begins as.
        number: whose noise it meets on its way down; None: it meets none, its start says all.
        class_id: None for networks without classes.
    """

    start: Float[Tensor, "C H W"]
    number: int | None
    class_id: int | None

    @property
    def identity(self) -> dict[str, object]:
        """What decides its pixels besides the seed, as plain values."""
        start = hashlib.sha256(self.start.cpu().numpy().tobytes()).hexdigest()
        return {"noise_sha256": start, "number": self.number, "class": self.class_id}


def end_of(text: str, painter: Painter, class_id: int | None = None) -> End:
    """Return the end that a text means.

    Args:
        text: digits are the number of an image of the painter's seed, anything else is a file of `write_noise`.
        class_id: of the image; None: as `hdit sample` gives it to the number, or as the file says.

    Raises:
        UsageError: the network has no such class, or the noise in the file belongs to something else.
        CheckpointError: there is no such file, or it holds no noise.
    """
    num_classes = painter.denoiser.recipe.model.num_classes
    check_classes(num_classes, [0], None if class_id is None else [class_id])
    if not (text.isascii() and text.isdigit()):
        stored = read_noise(Path(text), painter)
        return End(stored.noise, None, stored.class_id if class_id is None else class_id)
    if len(text) > len(str(LARGEST_NUMBER)) or int(text) > LARGEST_NUMBER:
        raise UsageError(f"{text[:40]}: larger than any image's number, {LARGEST_NUMBER}")
    number = int(text)
    in_turn = number % num_classes if num_classes else None
    return End(painter.noise([number])[0], number, in_turn if class_id is None else class_id)
