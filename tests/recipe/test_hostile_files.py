"""Files that are not recipes, or malicious."""

import errno
from pathlib import Path

import pytest

from hdit_core.recipe.read import read_recipe
from tests.recipe.recipe_file import GOOD, mistakes_of

HOSTILE = {
    "500 brackets": (GOOD + "a = " + "[" * 500, "nested too deeply"),
    "500 tables": (GOOD + "a = " + "{a=" * 500, "nested too deeply"),
    "a key of 30,000 parts": (GOOD + "a" + ".a" * 30_000 + " = 1", "nested too deeply"),
    "a key of 30,000 quoted parts": (GOOD + "'a b'" + ' . "a"' * 30_000 + " = 1", "nested too deeply"),
    "a heading of 30,000 parts": (GOOD + "[a" + ".a" * 30_000 + "]", "nested too deeply"),
    "5,000 digits": (GOOD + "a = " + "9" * 5000, "not a TOML file: Exceeds the limit"),
    "more than a megabyte": (GOOD + "#" * 1_000_000, "bytes, too large for a recipe"),
    "NUL": (GOOD + "\0", "not a TOML file: Invalid statement (at line 20, column 1)"),
    "not UTF-8": (GOOD.encode() + b"a = '\xff'", "not a TOML file: 'utf-8' codec"),
    "cut short": (GOOD + "[data", "not a TOML file: Expected ']'"),
    "a key twice": (GOOD + "batch_size = 9", "not a TOML file: Cannot overwrite a value"),
    "a picture": (bytes(range(256)), "not a TOML file"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_one_line(write, content, message):
    (line,) = mistakes_of(write(content))
    assert message in line
    assert len(line) < 300


@pytest.mark.parametrize("depth", [100, 200, 300, 330, 400])
def test_any_depth_of_nesting_is_one_line(write, depth):
    (line,) = mistakes_of(write(GOOD + "lr = " + "[" * depth + "]" * depth))
    assert line.startswith(("train.lr = [[", "nested too deeply"))


def test_a_long_key_or_value_is_shortened_in_the_message(write):
    lines = mistakes_of(write(GOOD + "x" * 9000 + " = 1\nlr = '" + "y" * 9000 + "'"))
    assert all(len(line) < 1000 for line in lines)
    assert "yyy...: expected a number" in lines[0]
    assert "xxx...: unknown key" in lines[1]


def test_a_long_dotted_text_or_comment_is_not_a_deep_key(write):
    text = GOOD.replace("[train]", "# ...................................................\n[train]")
    overrides = [f"data.path='{'/'.join('v1.2' for _ in range(40))}'"]
    assert read_recipe(write(text), overrides).data.path.startswith("v1.2/")


@pytest.mark.parametrize("key", ["model.mapping_depth", "model.levels[0].depth"])
def test_a_depth_whose_network_could_not_be_built_is_refused(write, key):
    (line,) = mistakes_of(write(GOOD), [f"{key}={2**40}"])
    assert line.startswith(f"{key} = {2**40}") and "1000" in line


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux: a file that opens and cannot be read")
def test_a_read_error_of_a_recipe_names_its_path(tmp_path):
    (tmp_path / "recipe.toml").symlink_to("/proc/self/mem")
    with pytest.raises(OSError) as end:
        read_recipe(str(tmp_path / "recipe.toml"))
    assert (end.value.errno, end.value.filename) == (errno.EIO, str(tmp_path / "recipe.toml"))
