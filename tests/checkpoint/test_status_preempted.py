"""A run that ends because its storage is unavailable can be resumed, and its status is preempted."""

import pytest

from hdit_core.checkpoint.status import read_status, recording_failure, write_status
from hdit_core.data.format.retry_reads import StorageUnavailable


@pytest.mark.parametrize(("state", "reason"), [("running", "data: cannot be read"), ("preempted", "SIGTERM")])
def test_a_run_whose_data_is_temporarily_unreadable_is_preempted_and_not_failed(tmp_path, state, reason):
    write_status(tmp_path, state, 7, 70, **({"reason": "SIGTERM"} if state == "preempted" else {}))
    with pytest.raises(StorageUnavailable), recording_failure(tmp_path, is_main=True):
        raise StorageUnavailable("data: cannot be read")
    assert read_status(tmp_path) == {"state": "preempted", "step": 7, "num_images": 70, "reason": reason}
