"""The container recipes, as far as they can be checked without building them."""

import re
import shutil
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "containers"
RECIPES = ("Dockerfile", "hdit.def")


def copied_files(name: str) -> set[str]:
    """Return the files and folders of the repository that a container recipe copies."""
    text = (CONTAINERS / name).read_text()
    if name == "Dockerfile":
        return {source for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for source in line.split()[:-1]}
    section = re.search(r"^%files\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    return {line.split()[0] for line in section[1].splitlines()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_container_has_the_pinned_torch(name):
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert re.findall(r"torch==(\S+)", (CONTAINERS / name).read_text()) == [pinned]


@pytest.mark.parametrize("name", RECIPES)
def test_a_container_is_installed_from_the_files_that_it_copies(name, tmp_path):
    for source in copied_files(name):
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / source)
    assert (tmp_path / "constraints.txt").exists()
    (wheel,) = WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"))
    names = ZipFile(wheel).namelist()
    assert "hdit_core/recipe/run.py" in names
    assert sum(name.endswith("ffhq1024.toml") for name in names) == 1
    assert sum(name.endswith("licenses/LICENSE") for name in names) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_the_extras_of_a_container_exist(name):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.search(r"/opt/hdit\[(.+?)\]", (CONTAINERS / name).read_text())[1].split(",")
    assert set(wanted) <= set(extras)
