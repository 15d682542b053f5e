"""What every test can use."""

import copy
import gc
import logging
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from safetensors.torch import load_file

from tests import type_checker

type_checker.install()  # before hdit_core is imported

from hdit_core.data.prepare.job import PrepareSettings  # noqa: E402
from hdit_core.data.prepare.run import prepare_data  # noqa: E402
from hdit_core.recipe.read import check_recipe  # noqa: E402

# as in processes that draw or score: those that a test starts have to give the bits of the test's own
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# Triton's own functions are interpreted, as tests/model/triton needs them, if that is set when they are first imported.
with suppress(ImportError), pytest.MonkeyPatch.context() as patch:
    patch.setenv("TRITON_INTERPRET", "1")
    import triton.language  # noqa: F401


class _Collector(logging.Handler):
    """Appends the messages of the library to a list."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def collected_messages() -> Iterator[list[str]]:
    """Yield a list that grows by each message that hdit logs while the body runs; for other processes than pytest's."""
    logger, messages = logging.getLogger("hdit"), list[str]()
    handler, level = _Collector(messages), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """Return the messages that hdit has logged so far in this test."""
    with collected_messages() as messages:
        yield messages


REFERENCE = Path(__file__).parent / "reference"

# Hours rather than minutes: `make endurance` names the folder, and only then are they collected.
collect_ignore = [] if any("endurance" in argument for argument in sys.argv) else ["endurance"]


# The same examples on every machine, whatever time they take there.
settings.register_profile("even", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("even")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return one process more than cores: tests of signals, lost ranks and slow storage mostly wait."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is imported and collected out of garbage collections: over a million objects, a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix the files, in the same order everywhere, so that tests that wait and tests that compute run side by side."""
    items.sort(key=lambda item: zlib.crc32(item.path.name.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let no test's random numbers depend on the tests that this process ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tests run side by side: one thread each, and the same bits wherever they run."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference():
    """Return a function that loads one file of `tests/reference` by its name without the ending."""
    return lambda name: load_file(REFERENCE / f"{name}.safetensors")


TINY = {
    "model": {
        "image_size": [16, 24],
        "patch_size": 2,
        "num_classes": 3,
        "mapping_width": 32,
        "mapping_depth": 1,
        "levels": [
            {"depth": 1, "width": 16, "head_dim": 8, "attention": "neighborhood", "kernel_size": 3, "dropout": 0.1},
            {"depth": 1, "width": 32, "head_dim": 16, "attention": "global"},
        ],
    },
    "diffusion": {},
    "data": {"workers": 0, "augment_prob": 0.1},
    "train": {
        "num_images": 96,
        "batch_size": 8,
        "log_every_images": 16,
        "checkpoint_every_images": 32,
        "sample_every_images": 0,
    },
    "sample": {"steps": 4, "sigma_max": 80.0, "batch_size": 4},
}


@pytest.fixture
def tiny_recipe():
    """A recipe whose network trains in milliseconds; not square, with every kind of conditioning it can train."""
    return check_recipe(TINY, "tiny")


@pytest.fixture
def changed(tiny_recipe):
    """Return a function that gives the tiny recipe with other values: `changed({"train.seed": 3})`."""

    def change(values):
        tables = copy.deepcopy(TINY)
        for key, value in values.items():
            table, _, name = key.partition(".")
            tables.setdefault(table, {})[name] = value
        return check_recipe(tables, "changed")

    return change


def prepare_tiny(folder: Path, seed: int) -> Path:
    """Make 20 pictures of three classes and prepare them as 16x24 images."""
    numbers = np.random.default_rng(seed)
    for index in range(20):
        picture = folder / "pictures" / f"class{index % 3}" / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (20, 30, 3), np.uint8)).save(picture)
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "data", (16, 24), shard_size=8))
    return folder / "data"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A prepared data set that fits the tiny recipe."""
    return prepare_tiny(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="session")
def other_tiny_data(tmp_path_factory):
    """Another one."""
    return prepare_tiny(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture
def trained(changed, tiny_data):
    """Return a function that gives the tiny recipe with its data, and with other values."""
    return lambda values: changed({"data.path": str(tiny_data)} | values)


@pytest.fixture(scope="session")
def importable_torchvision():
    """Make torchvision, which clean-fid, torch-fidelity and diffusers import, importable with any build of torch.

    A torchvision built for CUDA cannot load its operators next to a CPU build of torch, and its import then fails
    because they are missing: this declares them. Where the operators load, declaring them again would abort the
    process, so a child process tries the import first.
    """
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
