"""`hdit recipe`: list, show, check and copy recipes."""

import errno
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import emit, note
from hdit_cli.options.shared import JsonOption, RecipeArgument, SetOption, recipe_names
from hdit_core.errors import DataError, RecipeError, UsageError, did_you_mean

if TYPE_CHECKING:
    from hdit_core.recipe.run import Recipe


app = typer.Typer(add_completion=False, help="List, show, check and copy recipes.")


def _title(path: Path) -> str:
    """Return the first comment line of a recipe file."""
    with path.open(encoding="utf-8") as file:
        return next((line.lstrip("# ").strip() for line in file if line.startswith("#")), "")


@app.command("list")
def list_recipes(json: JsonOption = False) -> None:
    """List the built-in recipes.

    Example: hdit recipe list
    """
    from hdit_core.recipe.read import shipped_recipes

    emit([{"name": name, "trains": _title(path)} for name, path in shipped_recipes().items()], json)


@app.command()
def show(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Print a recipe with all defaults and overrides.

    Examples:
      hdit recipe show mnist32 --set train.batch_size=64
      diff <(hdit recipe show mnist32) <(hdit recipe show my.toml)
    """
    from hdit_core.recipe.read import read_recipe
    from hdit_core.recipe.write import recipe_toml

    found = read_recipe(recipe, overrides or ())
    emit(found.model_dump(mode="json"), json, recipe_toml(found).splitlines())


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes.

    Editors with a TOML language server use it for completion and validation.

    Example: hdit recipe schema > recipe.schema.json
    """
    from hdit_core.recipe.run import Recipe

    emit(Recipe.model_json_schema(), as_json=True)


@app.command()
def reference(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="A key such as train.lr, or a table such as train.",
            show_default="all keys, in Markdown",
        ),
    ] = None,
) -> None:
    """Print the type, default and description of recipe keys.

    Examples:
      hdit recipe reference train.lr
      hdit recipe reference model.levels
      hdit recipe reference > recipe.md
    """
    from hdit_core.recipe.write import key_entries, recipe_reference

    if key is None:
        typer.echo(recipe_reference(), nl=False)
        return
    for entry in _entries_of(key, list(key_entries())):
        lines = [f"{entry['key']}", f"  {entry['type']}; default: {entry['default']}", f"  {entry['description']}"]
        emit(entry, False, lines)


def _entries_of(key: str, entries: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the entries of a key (`train.lr`, or `lr` in every table) or of a table."""
    name = re.sub(r"\[[0-9]*\]", "", key)  # model.levels[0].width
    found = [entry for entry in entries if f".{entry['key']}".endswith(f".{name}")]
    found += [entry for entry in entries if entry["key"].startswith(f"{name}.")]
    if not found:
        names = [entry["key"] for entry in entries]
        hint = did_you_mean(name, names) or "; hdit recipe reference prints all keys"
        raise UsageError(f"{key}: no such recipe key or table{hint}")
    return found


@app.command()
def check(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE", help="TOML files, or names of built-in recipes.", autocompletion=recipe_names),
    ],
    overrides: SetOption = None,
) -> None:
    """Check recipes for mistakes.

    Reports all mistakes at once. A recipe is also compared with its prepared data set, if that is on this machine.

    Example: hdit recipe check my.toml other.toml
    """
    from hdit_core.recipe.read import recipe_mistakes

    mistakes: list[str] = []
    for recipe in recipes:
        compared: list[str] = []
        try:
            lines = recipe_mistakes(recipe, overrides or (), partial(_data_problems, compared))
        except RecipeError as error:
            lines = [str(error)]
        mistakes += lines
        if not lines:
            note(f"{recipe}: good" + "".join(f", and fits {path}" for path in compared))
    if mistakes:
        raise RecipeError("\n".join(mistakes))


def _data_problems(compared: list[str], recipe: "Recipe") -> Iterator[str]:
    """Yield how a recipe's prepared data set differs from it, if the set is here; append its path to `compared`."""
    from hdit_core.data.format.manifest import MANIFEST, read_manifest

    folder = Path(recipe.data.path)
    if "://" in recipe.data.path or not (folder / MANIFEST).is_file():
        return
    from hdit_core.train.data_checks import data_problems

    compared.append(str(folder))
    try:
        yield from (f"{folder}: {problem}" for problem in data_problems(recipe, read_manifest(folder).contents))
    except DataError as error:
        yield str(error)


@app.command()
def copy(
    recipe: RecipeArgument,
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="File or folder to write.", show_default="this folder")
    ] = Path(),
    annotated: Annotated[bool, typer.Option("--annotated", help="Write every key with its description.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Copy a recipe as a starting point.

    Examples:
      hdit recipe copy ffhq1024 my.toml
      hdit recipe copy --annotated ffhq1024 my.toml
    """
    from hdit_core.files import naming, write_atomic
    from hdit_core.recipe.read import find_recipe, read_recipe
    from hdit_core.recipe.write import annotated_toml, header, keep_comments

    source = find_recipe(recipe)
    path = target / source.name if target.is_dir() else target
    with naming(source):
        content = source.read_bytes()
        if annotated:
            text = content.decode()
            content = (header(text) + keep_comments(annotated_toml(read_recipe(recipe)), text)).encode()
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path}: exists; choose another name, or add --force to overwrite it")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    write_atomic(path, content)
    emit({"path": str(path)}, False, [str(path)])
