"""A server of commands with faults, and a folder on which they work, once for all tests of a process."""

import copy

import pytest

from hdit_core.recipe.read import check_recipe
from tests.cli.faults.commands import fill
from tests.cli.faults.injection import Server
from tests.conftest import TINY


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def work(tmp_path_factory, tiny_data):
    def recipe_of(values):
        tables = copy.deepcopy(TINY)
        for key, value in values.items():
            table, _, name = key.partition(".")
            tables[table][name] = value
        return check_recipe(tables, "tiny")

    return fill(tmp_path_factory.mktemp("faults") / "work", recipe_of, tiny_data)
