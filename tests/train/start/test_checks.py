"""Errors that are found before a run sets anything up."""

import subprocess
import sys

import pytest

from hdit_cli.main import main
from hdit_core.errors import DataError
from hdit_core.recipe.write import recipe_toml
from hdit_core.train.run import train

SCRIPT = """
import multiprocessing, sys
{guard}
    multiprocessing.set_start_method({method!r})
    from hdit_core.recipe.read import read_recipe
    from hdit_core.train.run import train
    def start():
        return train(read_recipe({recipe!r}), {run!r}, device="cpu")
    print("steps", start().step)
"""


@pytest.mark.parametrize(
    ("method", "guarded"),
    [
        ("fork", False),
        ("spawn", False),
        pytest.param("forkserver", False, marks=pytest.mark.slow),
        pytest.param("spawn", True, marks=pytest.mark.slow),
    ],
)
def test_a_script_without_a_main_guard_works_under_fork_and_is_refused_with_its_line_elsewhere(
    tmp_path, trained, method, guarded
):
    (tmp_path / "tiny.toml").write_text(recipe_toml(trained({"train.num_images": 16, "data.workers": 1})))
    guard = 'if __name__ == "__main__":' if guarded else "if True:"
    paths = {"recipe": str(tmp_path / "tiny.toml"), "run": str(tmp_path / "run")}
    (tmp_path / "script.py").write_text(SCRIPT.format(guard=guard, method=method, **paths))
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=300)
    if method == "fork" or guarded:
        assert done.stdout == "steps 2\n", done.stderr
        return
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    last = done.stderr.splitlines()[-1]
    assert "script.py:9: with data.workers = 1" in last and 'put the call under if __name__ == "__main__":' in last


def test_missing_data_are_reported_with_the_folder_and_the_command_of_the_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mnist32", "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert said == (
        f"hdit: error: data/mnist32: no such directory in {tmp_path}; prepare it with: hdit prepare-data mnist "
        "--size 32 --out data/mnist32, or use --set data.path=DIRECTORY\n"
    )
    (tmp_path / "photos").mkdir()
    assert main(["train", "mnist32", "--set", "data.path=photos"]) == 3
    said = capsys.readouterr().err
    assert "photos: is not a prepared data set (no manifest.json) in" in said
    assert "prepare it with: hdit prepare-data photos --size 32 --out NEW_DIRECTORY" in said


def test_missing_data_of_a_recipe_without_a_command_are_reported_with_a_command_of_its_size(tmp_path, trained):
    missing = tmp_path / "missing"
    message = (
        rf"{missing}: no such directory; prepare it with: hdit prepare-data SOURCE --size 16x24 --out {missing}, or"
    )
    with pytest.raises(DataError, match=message):
        train(trained({"data.path": str(missing)}), tmp_path / "run")
