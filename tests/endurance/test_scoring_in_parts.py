"""Ranks that hold the average in parts draw together, and leave off together when one of them is asked to stop."""

from tests.train.scored_ranks import check_scores


def test_ranks_with_a_sharded_ema_compute_the_same_score_and_stop_together(trained, tmp_path):
    check_scores(trained, tmp_path, "fsdp")
