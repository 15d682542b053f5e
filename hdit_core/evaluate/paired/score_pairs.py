"""Scores pairs: reads both images of each, computes PSNR, SSIM and the feature distance, on one or several ranks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.distributed import World
from hdit_core.errors import OtherRankFailed
from hdit_core.evaluate.extractors.extractor import full_precision, open_extractor, open_on_all
from hdit_core.evaluate.features.extract import feature_workers, prefetched
from hdit_core.evaluate.features.measure import OnProgress
from hdit_core.evaluate.inputs import ALONE, start_scoring
from hdit_core.evaluate.paired.pair_scorer import DIGEST_BYTES, NUM_FACTS, PairScorer, PairScores
from hdit_core.evaluate.paired.pairs import Pair, Pairs, match
from hdit_core.evaluate.paired.result import PairedScore, ScoredSet
from hdit_core.evaluate.paired.value_ranges import ValueRanges, value_ranges
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.generate.output.sample_record import sampling_record

PAIRS_PER_BATCH = 16


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
    images, originals = (open_images(path, full_depth=True) for path in (settings.images, settings.reference))
    pairs = match(images, originals, settings.n, settings.seed)
    ranges = value_ranges(settings.value_range, images, originals)
    name = settings.extractor
    open_it = partial(open_extractor, name, settings.weights, device, settings.mode) if name else None
    scorer = PairScorer(ranges, open_on_all(open_it, world) if open_it else None)
    scores = _on_all_ranks(pairs, scorer, on_progress, world)
    return _result(settings, pairs, scorer, scores) if world.is_main else None


def _on_all_ranks(pairs: Pairs, scorer: PairScorer, on_progress: OnProgress, world: World) -> PairScores:
    """Return the scores of all pairs, in order, each computed by one rank.

    Raises:
        OtherRankFailed: another rank failed.
    """
    if world.size == 1:
        return _score(pairs, scorer, on_progress, len(pairs.indices) if pairs.indices else None)
    assert pairs.indices is not None
    own = range(world.rank, len(pairs.indices), world.size)
    problem, scores = None, None
    try:
        scores = _score(pairs.chosen(own), scorer, on_progress, len(own))
    except Exception as error:
        problem = error
    if world.any(problem is not None):
        raise problem or OtherRankFailed("another rank failed; it reports the reason")
    assert scores is not None
    return _summed(scores, own, len(pairs.indices), world)


def _summed(own: PairScores, numbers: Sequence[int], count: int, world: World) -> PairScores:
    """Return the scores of all ranks: each adds its own to zeros, so that no bit changes."""
    values = torch.zeros(count, 3, dtype=torch.float64)
    rest = torch.zeros(count, 2 * DIGEST_BYTES + NUM_FACTS, dtype=torch.int64)
    values[numbers] = own.values
    digests = own.digests_u8.reshape(-1, 2 * DIGEST_BYTES).astype(np.int64)
    rest[numbers] = torch.from_numpy(np.concatenate([digests, own.facts], 1))
    values = world.sum(values.to(world.device)).cpu()
    table = world.sum(rest.to(world.device)).cpu().numpy()
    digests_u8 = table[:, :-NUM_FACTS].astype(np.uint8).reshape(count, 2, DIGEST_BYTES)
    return PairScores(values, digests_u8, table[:, -NUM_FACTS:])


def _score(pairs: Pairs | Iterator[Pair], scorer: PairScorer, on_progress: OnProgress, total: int | None) -> PairScores:
    """Return the scores of pairs; a few batches are computed in parallel."""
    done: list[PairScores] = []
    count = 0
    left = iter(pairs)
    batches = iter(lambda: list(islice(left, PAIRS_PER_BATCH)), [])
    with full_precision(), feature_workers(scorer.device) as (pool, workers):
        for scores in prefetched(scorer.score, batches, pool, workers):
            done.append(scores)
            count += len(scores)
            on_progress(count, total)
    return PairScores.joined(done)


def _result(settings: ScoreSettings, pairs: Pairs, scorer: PairScorer, scores: PairScores) -> PairedScore:
    assert isinstance(settings.images, str)  # by check_settings
    images = replace(pairs.images, source=pairs.images.source | sampling_record(Path(settings.images)))
    subset = {} if settings.n is None else {"subset_seed": settings.seed}
    described = [
        _describe(side, scores, column, scorer.ranges, subset) for column, side in enumerate((images, pairs.originals))
    ]
    extractor = scorer.extractor
    remarks = [*images.remarks, *pairs.originals.remarks, *(extractor.remarks if extractor else ())]
    dtypes = [scores.dtypes(side) for side in (0, 1)]
    if dtypes[0] != dtypes[1]:
        kinds = [" and ".join(each) for each in dtypes]
        remarks.append(f"images are {kinds[0]}, the reference {kinds[1]}: each is scaled by the range of its own type")
    return PairedScore(
        psnr=scores.values[:, 0],
        ssim=scores.values[:, 1],
        distance=scores.values[:, 2] if extractor else None,
        extractor=extractor.provenance if extractor else {},
        matched_by=pairs.matched_by,
        images=described[0],
        originals=described[1],
        set_remarks=tuple(dict.fromkeys(remarks)),
    )


def _describe(
    images: ImageSet, scores: PairScores, side: int, ranges: ValueRanges, subset: dict[str, int]
) -> ScoredSet:
    size = next(iter(scores.sizes)) if len(scores.sizes) == 1 else "mixed"
    dtypes, digests_u8 = scores.dtypes(side), scores.digests_u8[:, side]
    is_8_bit = dtypes == ["uint8"] and ranges.are_full("uint8")
    values = {"rounding": "uint8"} if is_8_bit else {"values": ranges.to_json(dtypes)}
    fingerprint = hashlib.sha256(digests_u8.tobytes()).hexdigest()
    return ScoredSet({**images.source, **subset, "size": size, **values}, len(digests_u8), fingerprint)
