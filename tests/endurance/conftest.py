"""How long the long tests are: `make endurance ARGS='--kills 20'`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=100, help="processes that are killed at random times")
    parser.addoption("--flips", type=int, default=500, help="bits that are flipped")
    parser.addoption(
        "--calls",
        type=int,
        help="system calls of each kind that fail, for each command; default: 11, or 3 for fewer kills",
    )


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--kills")


@pytest.fixture
def flips(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--flips")


@pytest.fixture
def calls(request: pytest.FixtureRequest, kills: int) -> int:
    return request.config.getoption("--calls") or (11 if kills >= 100 else 3)
