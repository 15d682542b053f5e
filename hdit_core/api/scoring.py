"""`score`: from images and a reference to FID, KID, precision and recall."""

from typing import Any

from hdit_core.api.arguments import PathLike, checked_settings, path_argument, shown_progress
from hdit_core.evaluate import score as scoring
from hdit_core.evaluate.generated import samples_set
from hdit_core.evaluate.paired.result import PairedScore
from hdit_core.evaluate.paired.score_pairs import score_pairs
from hdit_core.evaluate.report.result import Score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.generate.pipeline import Samples


def score(
    images: Samples | PathLike,
    reference: PathLike,
    *,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> Score | PairedScore:
    """Return FID, KID, precision and recall of images against a reference, as `hdit eval-fid` does.

    With `paired=True`: PSNR and SSIM of each image against its original, in a `PairedScore`.

    Args:
        images: samples in memory, or a folder, an archive, an npz, or a prepared data set.
        reference: a prepared data set, a folder, an archive, or saved statistics (.npz).
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        progress: show progress and messages on stderr.
        settings: fields of `hdit_core.evaluate.settings.ScoreSettings`, such as `extractor="efficientnet-lite0"`,
            `allow_small_n=True`, `report=Path("report.html")`.

    Raises:
        TypeError: there is no such setting.
        UsageError: a value is wrong, or a set is too small.
        DataError: a set is empty, damaged, or of another extractor.
        HditError: the extractor's weights cannot be downloaded.
    """
    scored = samples_set(images) if isinstance(images, Samples) else path_argument(images, "images")
    values = {"images": scored, "reference": path_argument(reference, "reference"), "device": device, **settings}
    checked = checked_settings(ScoreSettings, "score", values)
    with shown_progress(progress, "score") as bar:
        result = score_pairs(checked, bar.update) if checked.paired else scoring.score(checked, bar.update)
    assert isinstance(result, Score | PairedScore)  # there is a reference, and this is the main rank
    return result
