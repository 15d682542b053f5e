"""The JSON Schema accepts the same recipes as the reader; docs and annotated copies describe every key."""

import tomllib
from pathlib import Path

import pytest

from hdit_core.recipe.read import check_recipe, read_recipe, shipped_recipes
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import annotated_toml, recipe_reference

SCHEMA = Recipe.model_json_schema()
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def errors_of(value, schema, where=""):
    """Yield the errors of a value by the keywords of JSON Schema that pydantic uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema and all(list(errors_of(value, option, where)) for option in schema["anyOf"]):
        yield f"{where}: {value!r} fits none of {schema['anyOf']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    match schema.get("type"):
        case "integer" | "number" as kind:
            fits = isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
            if not fits:
                yield f"{where}: {value!r} is no {kind}"
                return
        case str() as kind:
            if not isinstance(value, TYPES[kind]):
                yield f"{where}: {value!r} is no {kind}"
                return
    if value < schema.get("minimum", value) if isinstance(value, int | float) else False:
        yield f"{where}: {value} is too small"
    if value <= schema["exclusiveMinimum"] if "exclusiveMinimum" in schema else False:
        yield f"{where}: {value} is too small"
    if value > schema["maximum"] if "maximum" in schema else False:
        yield f"{where}: {value} is too large"
    if isinstance(value, list):
        items = schema.get("prefixItems", [schema.get("items", {})] * len(value))
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{where}: {len(value)} elements"
        for index, (element, item) in enumerate(zip(value, items, strict=False)):
            yield from errors_of(element, item, f"{where}[{index}]")
    if isinstance(value, dict):
        for key in set(schema.get("required", ())) - set(value):
            yield f"{where}.{key}: missing"
        for key, inner in value.items():
            if key not in schema["properties"]:
                yield f"{where}.{key}: unknown"
            else:
                yield from errors_of(inner, schema["properties"][key], f"{where}.{key}")


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_schema_accepts_the_built_in_recipes(name):
    assert list(errors_of(tomllib.loads(shipped_recipes()[name].read_text()), SCHEMA)) == []


@pytest.mark.parametrize("size", [0, [32], [32, 0], [32, 32, 32], "32", 1.5])
def test_the_schema_refuses_other_image_sizes(size):
    tables = tomllib.loads(shipped_recipes()["mnist32"].read_text())
    tables["model"]["image_size"] = size
    assert list(errors_of(tables, SCHEMA))


def test_every_key_has_a_description():
    tables = {"": SCHEMA, **SCHEMA["$defs"]}
    leaves = [
        (f"{name}.{key}", field)
        for name, table in tables.items()
        for key, field in table.get("properties", {}).items()
        if "$ref" not in field
    ]
    assert len(leaves) > 90
    assert [key for key, field in leaves if len(field.get("description", "")) < 10] == []


def test_the_recipe_reference_in_the_docs_is_up_to_date():
    assert (Path(__file__).parents[2] / "docs" / "recipe.md").read_text() == recipe_reference(), (
        "run `hdit recipe reference > docs/recipe.md`"
    )


@pytest.mark.parametrize("name", shipped_recipes())
def test_an_annotated_recipe_is_the_same_recipe_with_a_comment_for_every_key(name):
    recipe = read_recipe(name)
    text = annotated_toml(recipe)
    assert check_recipe(tomllib.loads(text), name) == recipe
    lines = text.splitlines()
    keys = [index for index, line in enumerate(lines) if " =" in line and not line.startswith("# ")]
    assert keys and all(lines[index - 1].startswith("# ") for index in keys)
    assert "# mapping_d_ff =" in lines or "mapping_d_ff = " in text
