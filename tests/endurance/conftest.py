"""How long the long tests are: `make endurance ARGS='--kills 20'`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=100, help="processes that are killed at random times")
    parser.addoption("--flips", type=int, default=500, help="bits that are flipped")
    parser.addoption("--calls", type=int, default=11, help="system calls of each kind that fail, for each command")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")


@pytest.fixture
def flips(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--flips")


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--calls")
