"""docs/architecture.md describes the existing packages and layers."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_documented_layers_are_those_that_the_linter_enforces():
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["hdit_core"])
    text = PAGE.partition("## Layers")[2].partition("\n## ")[0]
    assert re.findall(r"^    (.+)$", text, re.MULTILINE) == layers, "update the block under '## Layers'"


def test_every_package_is_listed():
    packages = {
        str(path.parent.relative_to(ROOT / top))
        for top in ("hdit_core", "hdit_cli")
        for path in (ROOT / top).rglob("*/__init__.py")
    }
    text = PAGE.partition("## Where things live")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE)) == packages


def test_every_module_that_is_named_exists():
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE))
    missing = {name for name in named if not any((ROOT / top / name).exists() for top in ("", "hdit_core"))}
    assert named and not missing
