"""A recipe as text: TOML with every default written out, annotated TOML, and the reference of all keys."""

import json
import re
import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from hdit_core.recipe.run import Recipe

COMMENT_WIDTH = 110
RANGES = (("exclusiveMinimum", ">"), ("minimum", ">="), ("maximum", "<="), ("exclusiveMaximum", "<"))
LARGEST_INTEGER = 2**63  # the bound of every integer, which the reference does not repeat

Schema = Mapping[str, Any]

INTRODUCTION = """\
# Recipe keys

Written by `hdit recipe reference`; `hdit recipe reference train.lr` prints the entry of one key. A recipe is a TOML
file with the tables below; `hdit train RECIPE --set table.key=value` overrides single keys. `hdit recipe copy
--annotated RECIPE` writes a recipe with these descriptions as comments.
"""


def recipe_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML that `read_recipe` reads back to an equal one. Keys that are None are left out."""
    return tables_toml(recipe.model_dump(mode="json", exclude_none=True))


def tables_toml(tables: Mapping[str, Any]) -> str:
    """Return nested tables of JSON values, none of them null, as TOML."""
    return "\n".join(_lines((), tables)).lstrip("\n") + "\n"


def annotated_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML with each key's description above it, and with unset keys as comments."""
    schema = _schema()
    return "\n".join(_annotated((), recipe.model_dump(mode="json"), schema, schema)).lstrip("\n") + "\n"


def recipe_reference() -> str:
    """Return the reference of all recipe keys as Markdown: type and range, default, description."""
    schema = _schema()
    return INTRODUCTION + "".join(f"{line}\n" for line in _sections("", _resolve(schema, schema), schema))


def key_entries() -> Iterator[dict[str, str]]:
    """Yield every key of recipes, such as `train.lr` or `model.levels.width`: type and range, default, description."""
    schema = _schema()
    yield from _entries("", _resolve(schema, schema), schema)


def _entries(name: str, table: Schema, schema: Schema) -> Iterator[dict[str, str]]:
    for key, field in table["properties"].items():
        inner = _table_of(field, schema)
        if inner is not None:
            yield from _entries(f"{name}{key}.", inner, schema)
            continue
        default = _default(field, key in table.get("required", ())).strip("`")
        entry = {"key": f"{name}{key}", "type": _type(field).replace("`", ""), "default": default or "none"}
        yield entry | {"description": field["description"]}


def keep_comments(annotated: str, text: str) -> str:
    """Return an annotated recipe with the comments that are next to the values in the text that it was made from."""
    comments = {place: comment for _, place, comment in _places(text) if comment}
    lines = (f"{line}  # {comments[place]}" if place in comments else line for line, place, _ in _places(annotated))
    return "\n".join(lines) + "\n"


Place = tuple[str, int, str]


def _places(text: str) -> Iterator[tuple[str, Place | None, str]]:
    """Yield each line with its table, the table's number among those of its name, its key, and the value's comment."""
    table, numbers = "", Counter[str]()
    for line in text.splitlines():
        if header := re.match(r"\[+([^\[\]]+)\]+", line):
            table = header[1].strip()
            numbers[table] += 1
        value = re.match(r"([\w-]+)\s*=", line)
        place = (table, numbers[table], value[1]) if value else None
        yield line, place, _comment_of(line) if value else ""


def _comment_of(line: str) -> str:
    """Return the comment after a value; `""` without one, or if the value goes on in the next line."""
    for hash_sign in re.finditer("#", line):
        try:
            tomllib.loads(line[: hash_sign.start()])
        except tomllib.TOMLDecodeError:
            continue  # inside a text
        return line[hash_sign.end() :].strip()
    return ""


def toml_line(key: str, value: Any) -> str:
    """Return `key = value` in TOML.

    JSON's numbers, booleans, strings and arrays of these are also TOML's, apart from the escape of DEL.
    """
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007F")


def _lines(keys: tuple[str, ...], table: Mapping[str, Any], brackets: str = "[{}]") -> Iterator[str]:
    if keys:
        yield "\n" + brackets.format(".".join(keys))
    for key, value in table.items():
        if not isinstance(value, dict) and not _is_array_of_tables(value):
            yield toml_line(key, value)
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines((*keys, key), value)
        elif _is_array_of_tables(value):
            for element in value:
                yield from _lines((*keys, key), element, "[[{}]]")


def header(text: str) -> str:
    """Return the comment at the start of a recipe file, with an empty line after it; `""` without one."""
    lines = list(takewhile(lambda line: not line.strip() or line.startswith("#"), text.splitlines()))
    comment = "\n".join(line.rstrip() for line in lines).strip("\n")
    return f"{comment}\n\n" if comment else ""


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _schema() -> Schema:
    return Recipe.model_json_schema()


def _resolve(field: Schema, schema: Schema) -> Schema:
    """Return a field's schema, or that of the table it refers to."""
    return schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _table_of(field: Schema, schema: Schema) -> Schema | None:
    """Return the schema of the table or of the array of tables that a field holds; None for a plain value."""
    for option in [field, *field.get("anyOf", []), field.get("items", {})]:
        if "properties" in (table := _resolve(option, schema)):
            return table
    return None


def _annotated(
    keys: tuple[str, ...], table: Mapping[str, Any], described: Schema | None, schema: Schema, brackets: str = "[{}]"
) -> Iterator[str]:
    assert described is not None  # the keys are those of a recipe
    if keys:
        yield "\n" + brackets.format(".".join(keys))
    fields = described["properties"]
    nested = [key for key, value in table.items() if isinstance(value, dict) or _is_array_of_tables(value)]
    for key, value in table.items():
        if key not in nested:
            text = f"{fields[key]['description']} ({_type(fields[key])})"
            yield from textwrap.wrap(text, COMMENT_WIDTH, initial_indent="# ", subsequent_indent="#   ")
            yield f"# {key} =" if value is None else toml_line(key, value)
    for key in nested:
        value, inner = table[key], _table_of(fields[key], schema)
        for element in value if isinstance(value, list) else [value]:
            yield from _annotated((*keys, key), element, inner, schema, "[[{}]]" if element is not value else "[{}]")


def _sections(name: str, table: Schema, schema: Schema) -> Iterator[str]:
    rows, nested = [], []
    for key, field in table["properties"].items():
        inner = _table_of(field, schema)
        if inner is not None:
            is_array = any(option.get("type") == "array" for option in [field, *field.get("anyOf", [])])
            nested.append((f"{name}.{key}".lstrip(".") + ("[]" if is_array else ""), inner))
        else:
            cells = (
                f"`{key}`",
                _type(field),
                _default(field, key in table.get("required", ())),
                field["description"],
            )
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if name:
        yield from ("", f"## `[{name}]`" if "[]" not in name else f"## `[[{name.replace('[]', '')}]]`", "")
        yield table["description"]
    if rows:
        yield from ("", "| key | type | default | description |", "|---|---|---|---|", *rows)
    for inner_name, inner in nested:
        yield from _sections(inner_name, inner, schema)


def _default(field: Schema, required: bool) -> str:
    if required:
        return "required"
    default = field.get("default")
    return "" if default is None else f"`{json.dumps(default)}`"


def _type(field: Schema) -> str:
    """Return the type and range of a value, such as `"number > 0 and <= 1"`."""
    if "anyOf" in field:
        options = [_type(option) for option in field["anyOf"] if option.get("type") != "null"]
        return " or ".join(options)
    if "$ref" in field:
        return "table"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if field["type"] == "array":
        if "prefixItems" in field:
            return "[" + ", ".join(_type(item) for item in field["prefixItems"]) + "]"
        return f"array of {_type(field['items'])}"
    name = {"boolean": "true or false", "string": "text"}.get(field["type"], field["type"])
    bounds = [f"{sign} {field[key]:g}" for key, sign in RANGES if field.get(key) not in (None, LARGEST_INTEGER)]
    return f"{name} {' and '.join(bounds)}".rstrip()
