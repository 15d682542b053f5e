"""Two ranks share the scores during training, and stop together when one of them is asked to."""

import pytest

from tests.train.scored_ranks import check_scores


@pytest.mark.slow
def test_ranks_compute_the_same_score_as_one_process_and_stop_together(trained, tmp_path):
    check_scores(trained, tmp_path, "ddp")
