"""Temporary packages with commands."""

import importlib
import sys
import textwrap

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package which offers one command from one module.

    Several calls may offer the same name; the module is importable under the package's name.
    """
    monkeypatch.syspath_prepend(tmp_path)

    def make(package, command, source, attribute="app"):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hdit.commands]\n{command} = {package}:{attribute}\n")
        (tmp_path / f"{package}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        made.append(package)
        return tmp_path

    made = []
    yield make
    for package in made:
        sys.modules.pop(package, None)


@pytest.fixture
def install_body(install):
    """Return a function that installs the command `hdit act`, which runs the given lines."""

    def make(body):
        lines = textwrap.indent(textwrap.dedent(body).strip(), " " * 4)
        return install(
            "acting",
            "act",
            "import typer\napp = typer.Typer(add_completion=False)\n\n@app.command()\n"
            f'def act(count: int = 1) -> None:\n    """Act."""\n{lines}\n',
        )

    return make
