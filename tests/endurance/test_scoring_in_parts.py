"""Ranks with a sharded EMA sample together, and stop together when one of them is asked to."""

from tests.train.scored_ranks import check_scores


def test_ranks_with_a_sharded_ema_compute_the_same_score_and_stop_together(trained, tmp_path):
    check_scores(trained, tmp_path, "fsdp")
