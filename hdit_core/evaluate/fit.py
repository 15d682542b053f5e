"""Whether two sets and an extractor fit together: what is refused, and what a reader of the score has to know."""

from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.distance import FrechetDistance
from hdit_core.evaluate.extractor import Extractor
from hdit_core.evaluate.measure import Measurement

LEAST_FOR_KERNEL = 4
ROUNDING = 1e-6  # of a covariance's trace: more negative eigenvalue than this is damage


def check_enough(path: str, count: int | None, extractor: Extractor, allow_small_n: bool) -> None:
    """Refuse a set with no more images than there are features.

    Raises:
        UsageError: it is too small, and nobody said that it may be.
    """
    if count is not None and count <= extractor.num_features and not allow_small_n:
        raise UsageError(
            f"{path}: {count} images are too few for the {extractor.num_features} features of {extractor.name}; "
            f"score at least {extractor.num_features + 1}, or pass --allow-small-n for a number that "
            "compares only with itself"
        )


def check_same_extractor(saved: Measurement, extractor: Extractor) -> None:
    """Refuse saved statistics of another extractor.

    Raises:
        DataError: they have other features, or say that something else made them.
    """
    mend = "give the extractor that made it, or make it anew with hdit eval-fid stats"
    found = saved.statistics.num_features
    if found != extractor.num_features:
        raise DataError(
            f"{saved.source['path']}: has {found} features, --extractor {extractor.name} gives "
            f"{extractor.num_features}; {mend}"
        )
    for key, expected in extractor.passport.items() if saved.extractor else ():
        if saved.extractor.get(key) != expected:
            raise DataError(
                f"{saved.source['path']}: was made with {key} = {saved.extractor.get(key)}, --extractor "
                f"{extractor.name} has {expected}; {mend}"
            )


def remarks_on(scored: Measurement, reference: Measurement, frechet: FrechetDistance) -> list[str]:
    """Return what a reader has to know about these two sets."""
    a, b = scored.statistics, reference.statistics
    fewest = min(n for n in (a.n, b.n) if n is not None)
    few = (
        f"{fewest} images are no more than the {a.num_features} features: biased upwards, and compares only with "
        "itself at the same numbers of images"
    )
    clipped = f"negative eigenvalues of {frechet.clipped_mass:.3g} were clipped: the saved statistics may be damaged"
    no_kernel = f"no kernel distance: it needs the features of {LEAST_FOR_KERNEL} images on both sides"
    found = {
        few: fewest <= a.num_features,
        "both sets hold the very same images": a.fingerprint == b.fingerprint,
        clipped: frechet.clipped_mass > ROUNDING * float(a.covariance.trace() + b.covariance.trace()),
        no_kernel: min(len(a.features), len(b.features)) < LEAST_FOR_KERNEL,
        **_differences(scored, reference),
    }
    return [remark for remark, holds in found.items() if holds]


def _differences(scored: Measurement, reference: Measurement) -> dict[str, bool]:
    """Return in what the images of the two sets are unlike, where it is known."""
    if "size" not in reference.source:
        return {}
    sizes = scored.source["size"], reference.source["size"]
    all_grey = [side.source["num_grey"] == side.statistics.n for side in (scored, reference)]
    return {
        f"the images are {sizes[0]} pixels, those of the reference {sizes[1]}": sizes[0] != sizes[1],
        "the images of one set are all grey, those of the other are not": all_grey[0] != all_grey[1],
    }
