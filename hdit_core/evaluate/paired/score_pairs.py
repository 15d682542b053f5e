"""Scores pairs: reads both images of each, computes PSNR, SSIM and the feature distance, on one or several ranks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.distributed import World
from hdit_core.errors import DataError, OtherRankFailed
from hdit_core.evaluate.extractors.extractor import Extractor, full_precision, open_extractor, open_on_all
from hdit_core.evaluate.features.extract import as_grey, feature_workers, prefetched
from hdit_core.evaluate.features.measure import OnProgress
from hdit_core.evaluate.inputs import ALONE, sampling_record, start_scoring
from hdit_core.evaluate.metrics.statistics import image_digest
from hdit_core.evaluate.paired.pairs import Pair, Pairs, match
from hdit_core.evaluate.paired.result import PairedScore, ScoredSet
from hdit_core.evaluate.paired.similarity import LEAST_SSIM_SIDE_PX, psnr, ssim
from hdit_core.evaluate.settings import ScoreSettings

PAIRS_PER_BATCH = 16
DIGEST_BYTES = 32


@dataclass(frozen=True)
class PairScores:
    """The scores of some pairs.

    Attributes:
        values: PSNR, SSIM and feature distance of each pair; the distance is 0 without an extractor.
        digests_u8: of the pixels of image and original.
        side_px: height and width.
    """

    values: Float64[Tensor, "N 3"]
    digests_u8: UInt8[np.ndarray, "N 2 32"]
    side_px: list[tuple[int, int]]


def score_pairs(
    settings: ScoreSettings, on_progress: OnProgress = lambda done, total: None, world: World = ALONE
) -> PairedScore | None:
    """Score images against their originals, pair by pair.

    Args:
        settings: with `paired`; the originals are the reference.
        on_progress: called with the number of pairs that are done, and the total.
        world: the ranks that share the work; all of them call this, with the same settings.

    Returns:
        The result, bit-identical for any number of ranks; None on all ranks but the main one.

    Raises:
        UsageError: the settings contradict each other.
        DataError: an image has no partner, or one of another size, or is damaged.
        HditError: as `open_extractor`.
    """
    device = start_scoring(settings, world)
    assert isinstance(settings.images, str) and settings.reference is not None  # by check_settings
    pairs = match(open_images(settings.images), open_images(settings.reference), settings.n, settings.seed)
    name = settings.extractor
    open_it = partial(open_extractor, name, settings.weights, device, settings.mode) if name else None
    extractor = open_on_all(open_it, world) if open_it else None
    scores = _on_all_ranks(pairs, extractor, on_progress, world)
    return _result(settings, pairs, extractor, scores) if world.is_main else None


def _on_all_ranks(pairs: Pairs, extractor: Extractor | None, on_progress: OnProgress, world: World) -> PairScores:
    """Return the scores of all pairs, in order, each computed by one rank.

    Raises:
        OtherRankFailed: another rank failed.
    """
    if world.size == 1:
        return _score(pairs, extractor, on_progress, len(pairs.places) if pairs.places else None)
    assert pairs.places is not None
    own = range(world.rank, len(pairs.places), world.size)
    problem, scores = None, None
    try:
        scores = _score(pairs.chosen(own), extractor, on_progress, len(own))
    except Exception as error:
        problem = error
    if world.any(problem is not None):
        raise problem or OtherRankFailed("another rank failed; it reports the reason")
    assert scores is not None
    return _summed(scores, own, len(pairs.places), world)


def _summed(own: PairScores, numbers: Sequence[int], count: int, world: World) -> PairScores:
    """Return the scores of all ranks: each adds its own to zeros, so that no bit changes."""
    values = torch.zeros(count, 3, dtype=torch.float64)
    rest = torch.zeros(count, 2 * DIGEST_BYTES + 2, dtype=torch.int64)
    values[numbers] = own.values
    sides = np.array(own.side_px, np.int64).reshape(-1, 2)
    digests = own.digests_u8.reshape(-1, 2 * DIGEST_BYTES).astype(np.int64)
    rest[numbers] = torch.from_numpy(np.concatenate([digests, sides], 1))
    values = world.sum(values.to(world.device)).cpu()
    table = world.sum(rest.to(world.device)).cpu().numpy()
    digests_u8 = table[:, :-2].astype(np.uint8).reshape(count, 2, DIGEST_BYTES)
    return PairScores(values, digests_u8, [(int(height), int(width)) for height, width in table[:, -2:]])


def _score(
    pairs: Pairs | Iterator[Pair], extractor: Extractor | None, on_progress: OnProgress, total: int | None
) -> PairScores:
    """Return the scores of pairs; a few batches are computed in parallel."""
    done: list[PairScores] = []
    device = extractor.device if extractor else torch.device("cpu")
    left = iter(pairs)
    batches = iter(lambda: list(islice(left, PAIRS_PER_BATCH)), [])
    with full_precision(), feature_workers(device) as (pool, workers):
        for scores in prefetched(partial(_score_batch, extractor), batches, pool, workers):
            done.append(scores)
            on_progress(sum(len(batch.side_px) for batch in done), total)
    empty = PairScores(torch.zeros(0, 3, dtype=torch.float64), np.zeros((0, 2, DIGEST_BYTES), np.uint8), [])
    return PairScores(
        torch.cat([empty.values, *(batch.values for batch in done)]),
        np.concatenate([empty.digests_u8, *(batch.digests_u8 for batch in done)]),
        [side for batch in done for side in batch.side_px],
    )


def _score_batch(extractor: Extractor | None, pairs: Sequence[Pair]) -> PairScores:
    images = [_read(pair) for pair in pairs]
    values = torch.zeros(len(pairs), 3, dtype=torch.float64)
    values[:, :2] = torch.tensor([(psnr(a, b), ssim(a, b)) for a, b in images], dtype=torch.float64)
    if extractor is not None:
        values[:, 2] = _feature_distances(images, extractor)
    digests = b"".join(image_digest(as_grey(image)) for both in images for image in both)
    digests_u8 = np.frombuffer(digests, np.uint8).reshape(-1, 2, DIGEST_BYTES)
    return PairScores(values, digests_u8, [(a.shape[0], a.shape[1]) for a, _ in images])


def _read(pair: Pair) -> tuple[UInt8[np.ndarray, "H W C"], UInt8[np.ndarray, "H W C"]]:
    """Return both images, with one channel if both are grey."""
    a, b = as_grey(pair.image()), as_grey(pair.original())
    _check_sizes(pair.name, a, b)
    channels = max(a.shape[2], b.shape[2])
    return np.broadcast_to(a, (*a.shape[:2], channels)), np.broadcast_to(b, (*b.shape[:2], channels))


def _check_sizes(name: str, a: UInt8[np.ndarray, "H W C"], b: UInt8[np.ndarray, "H2 W2 C2"]) -> None:
    sizes = [f"{image.shape[0]}x{image.shape[1]}" for image in (a, b)]
    if sizes[0] != sizes[1]:
        raise DataError(f"{name}: is {sizes[0]} pixels, its original {sizes[1]}; expected pairs of the same size")
    if min(a.shape[:2]) < LEAST_SSIM_SIDE_PX:
        raise DataError(
            f"{name}: is {sizes[0]} pixels; SSIM needs at least {LEAST_SSIM_SIDE_PX}x{LEAST_SSIM_SIDE_PX}, the size of "
            "its window"
        )


def _feature_distances(
    images: Sequence[tuple[UInt8[np.ndarray, "_ _ _"], UInt8[np.ndarray, "_ _ _"]]], extractor: Extractor
) -> Float64[Tensor, "N"]:
    """Return the cosine distance of each pair's features, 0 to 2."""
    features = [
        extractor.features([extractor.prepare(as_grey(both[side])) for both in images]).double() for side in (0, 1)
    ]
    return 1 - cosine_similarity(features[0], features[1], eps=1e-12)


def _result(settings: ScoreSettings, pairs: Pairs, extractor: Extractor | None, scores: PairScores) -> PairedScore:
    assert isinstance(settings.images, str)  # by check_settings
    images = replace(pairs.images, source=pairs.images.source | sampling_record(Path(settings.images)))
    subset = {} if settings.n is None else {"subset_seed": settings.seed}
    remarks = extractor.remarks if extractor else ()
    sizes = {f"{height}x{width}" for height, width in scores.side_px}
    described = [
        _describe(side, sizes, scores.digests_u8[:, column], subset)
        for column, side in enumerate((images, pairs.originals))
    ]
    return PairedScore(
        psnr=scores.values[:, 0],
        ssim=scores.values[:, 1],
        distance=scores.values[:, 2] if extractor else None,
        extractor=extractor.provenance if extractor else {},
        matched_by=pairs.matched_by,
        images=described[0],
        originals=described[1],
        set_remarks=tuple(dict.fromkeys([*images.remarks, *pairs.originals.remarks, *remarks])),
    )


def _describe(
    images: ImageSet, sizes: set[str], digests_u8: UInt8[np.ndarray, "N 32"], subset: dict[str, int]
) -> ScoredSet:
    size = next(iter(sizes)) if len(sizes) == 1 else "mixed"
    fingerprint = hashlib.sha256(digests_u8.tobytes()).hexdigest()
    return ScoredSet({**images.source, **subset, "size": size, "rounding": "uint8"}, len(digests_u8), fingerprint)
