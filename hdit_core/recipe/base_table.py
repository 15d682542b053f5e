"""The base of a recipe's tables: strict types, no unknown keys, and constraints between keys.

A constraint between several keys is a line of `Table.constraint_violations`; all violations are reported at once.
"""

import os
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

Problem = tuple[str, str]
"""The key inside a table, and its problem."""

CONSTRAINTS = "constraints"
"""pydantic's type of an error that lists violated constraints."""

UNCONSTRAINED = "types only"
"""pydantic's context in which a table is built even if it violates constraints."""


class Table(BaseModel):
    """One table of a recipe. Immutable; unknown keys, wrong types and non-finite numbers are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield every violated constraint between the keys of this table, whose types are right."""
        yield from ()

    @model_validator(mode="after")
    def _check_constraints(self, info: Any) -> "Table":
        if info.context is UNCONSTRAINED:
            return self
        if problems := list(self.constraint_violations()):
            raise PydanticCustomError(CONSTRAINTS, "constraints are violated", {"problems": problems})
        return self


def _as_pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


def _as_tuple(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (value,) if is_number else tuple(value) if isinstance(value, list) else value


def _expand_home(path: str) -> str:
    return os.path.expanduser(path) if path.startswith("~") else path  # noqa: PTH111  pathlib spoils addresses


PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

Path = Annotated[str, AfterValidator(_expand_home)]
"""A path or address; `~` means the home folder."""

_COUNT = {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2**63}

Pair = Annotated[
    tuple[PositiveInt, PositiveInt],
    BeforeValidator(_as_pair),
    WithJsonSchema(
        {"anyOf": [_COUNT, {"type": "array", "prefixItems": [_COUNT, _COUNT], "minItems": 2, "maxItems": 2}]}
    ),
]
"""Rows and columns; one number in the recipe means both."""

_POSITIVE = {"type": "number", "exclusiveMinimum": 0}

PositiveFloats = Annotated[
    tuple[PositiveFloat, ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple),
    WithJsonSchema({"anyOf": [_POSITIVE, {"type": "array", "items": _POSITIVE, "minItems": 1}]}),
]
"""Positive numbers; one number in the recipe is an array of it."""

Listed = Strict(False)
"""Marks a tuple that a recipe writes as a TOML array."""
