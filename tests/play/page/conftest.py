"""One server of the page for all tests."""

import shutil
import threading

import pytest
import torch

from hdit_core.play.models import Models
from hdit_core.play.page.server import serving


@pytest.fixture(scope="package")
def served_run(run, tmp_path_factory):
    """A copy of the run, which tests may change."""
    return shutil.copytree(run, tmp_path_factory.mktemp("served") / "digits")


@pytest.fixture(scope="package")
def address(served_run):
    """The address of a page for that run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hdit_core.play.page.run_tab.SECONDS_BETWEEN_LOOKS", 1.0)
        with serving(Models([str(served_run)], None, torch.device("cpu"))) as address:
            yield address
    assert [thread.name for thread in threading.enumerate() if thread.name == "hdit play"] == []
