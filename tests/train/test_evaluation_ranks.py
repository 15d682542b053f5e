"""Two ranks share the scores on the way, and leave off together when one of them is asked to stop."""

import pytest

from tests.train.scored_ranks import check_scores


@pytest.mark.slow
def test_ranks_score_what_one_process_does_and_leave_off_together(trained, tmp_path):
    check_scores(trained, tmp_path, "ddp")
