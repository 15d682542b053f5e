"""An installed wheel works without the source tree, with only the declared dependencies."""

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
DISTRIBUTION = "hdit-toolkit"


def needed(name, seen):
    """Add to `seen` the distribution and, without extras, everything that it requires."""
    if name.lower() not in seen:
        seen[name.lower()] = found = distribution(name)
        for line in found.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name, seen)
    return seen


def link_dependencies(site):
    """Put the declared dependencies, which are too large to install again, into an empty site-packages by links."""
    for name, found in needed(DISTRIBUTION, {}).items():
        tops = {file.parts[0] for file in found.files or () if name != DISTRIBUTION}
        for top in tops - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(found.locate_file(top)).resolve())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return a function that runs a program of an environment in which the wheel and its dependencies are installed."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    link_dependencies(site)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program, *args):
        result = subprocess.run(
            [python.parent / program, *args], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    run.site = site
    return run


def test_the_wheel_contains_the_two_packages_the_recipes_and_the_license(wheel):
    names = ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "hdit_cli",
        "hdit_core",
        wheel.name.rsplit("-", 3)[0] + ".dist-info",
    }
    folder = ROOT / "recipes"
    recipes = {f"hdit_core/recipes/{path.relative_to(folder)}" for path in folder.rglob("*.toml")}
    assert recipes == {name for name in names if name.endswith(".toml")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_environment_of_the_wheel_has_no_development_packages(installed):
    code = (
        "from importlib.util import find_spec; print(find_spec('pytest'), find_spec('hypothesis'), find_spec('mypy'))"
    )
    assert installed("python", "-c", code).split() == ["None"] * 3


def test_modules_and_recipes_come_from_the_wheel(installed):
    code = """
import hdit_cli, hdit_core
from hdit_core.recipe.read import shipped_recipes
print(*hdit_cli.__path__, *hdit_core.__path__, *shipped_recipes().values(), sep="\\n")
"""
    paths = installed("python", "-c", code).splitlines()
    assert len(paths) > 2
    assert all(Path(path).is_relative_to(installed.site) for path in paths)


def test_every_module_imports_with_the_declared_dependencies_alone(installed):
    code = """
import pkgutil, importlib, hdit_cli, hdit_core
for package in hdit_cli, hdit_core:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # triton comes with CUDA builds of torch only, and exported code for diffusers is imported by diffusers
        if not module.name.startswith(("hdit_core.model.triton.", "hdit_core.generate.export.diffusers.")):
            importlib.import_module(module.name)
        print(module.name)
"""
    assert "hdit_cli.commands.recipe" in installed("python", "-c", code).split()


def test_the_commands_of_the_wheel_run(installed):
    assert "recipe " in installed("hdit", "--help")
    assert "broken" not in installed("hdit", "--help")
    assert "mnist32" in installed("hdit", "recipe", "list")
    assert "1024" in installed("hdit", "flops", "--sizes", "1024")
    assert "num_classes = 10" in installed("hdit", "recipe", "show", "mnist32")
