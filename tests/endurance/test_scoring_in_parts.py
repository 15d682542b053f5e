"""Ranks that hold the average in parts draw together, and leave off together when one of them is asked to stop."""

from tests.train.scored_ranks import check_scores


def test_ranks_with_parts_of_the_average_score_what_one_process_does_and_leave_off_together(trained, tmp_path):
    check_scores(trained, tmp_path, "fsdp")
