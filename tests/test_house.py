"""The shape of the code: sizes, docstrings, import cycles, and declared dependencies."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hdit_cli", "hdit_core")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MOST_MODULES, MOST_FILE_LINES, MOST_FUNCTION_LINES = 12, 300, 40

MODULE_NAMES = {"clean-fid": "cleanfid", "pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
EXTRAS = ("natten", "parquet", "remote", "arrays", "dinov2", "tensorboard", "wandb", "play")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@functools.cache
def trees():
    """Return the syntax tree of each file; not read while tests are only collected."""
    return {path: ast.parse(path.read_text()) for path in FILES}


def definitions(node, public=True):
    """Yield each function and class with whether it is public; nested functions are left out."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            is_public = public and not child.name.startswith("_")
            yield child, is_public
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, is_public)


def is_overload(node):
    return any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)


def length(node):
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.end_lineno - first + 1


def test_no_folder_has_more_than_12_modules():
    folders = {path.parent for path in FILES} - {ROOT / "hdit_cli" / "commands"}
    sizes = {folder: len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) for folder in folders}
    assert {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_no_file_has_more_than_300_lines():
    files = [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > MOST_FILE_LINES] == []


def test_no_function_has_more_than_40_lines():
    assert [
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in trees().items()
        for node, _ in definitions(tree)
        if not isinstance(node, ast.ClassDef) and length(node) > MOST_FUNCTION_LINES
    ] == []


def test_everything_public_has_a_docstring():
    found = [str(path) for path, tree in trees().items() if ast.get_docstring(tree) is None]
    found += [
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in trees().items()
        for node, is_public in definitions(tree)
        if is_public and ast.get_docstring(node) is None and not is_overload(node)
    ]
    assert found == []


def imported_modules(path, tree):
    """Yield the modules of this project that a module imports, inside functions too, but not for type checking only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def test_no_modules_import_each_other_in_a_cycle():
    graph = {name: set(imported_modules(path, trees()[path])) - {name} for name, path in MODULES.items()}
    while leaves := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert sorted(graph) == []


@functools.cache
def imported_names():
    """Return the top-level names that the code imports at run time."""
    names = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("group", ["run time", *EXTRAS])
def test_each_declared_dependency_is_imported(group):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] if group == "run time" else project["optional-dependencies"][group]
    packages = [re.match(r"[\w-]+", requirement)[0] for requirement in declared]
    text = "".join(path.read_text() for path in FILES)
    unused = [
        name
        for name in packages
        if (module := MODULE_NAMES.get(name, name)) not in imported_names() and f'"{module}' not in text
    ]
    assert unused == []


def test_install_commands_in_messages_and_documents_name_declared_extras():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(path.read_text() for path in [*FILES, *DOCUMENTS])
    named = set(re.findall(r"hdit-toolkit\[([\w-]+)\]", text))
    assert named and named <= set(declared)
    assert re.findall(r"needs `?pip install -e", text) == []  # works in a checkout only
