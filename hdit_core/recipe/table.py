"""What the tables of a recipe have in common: strict types, no unknown keys, and laws between keys.

A law that ties several keys together is a line of `Table.problems`; all that are broken are reported at once.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

Problem = tuple[str, str]  # the key inside the table, and what is wrong with it
UNCONSTRAINED = "types only"  # pydantic's context in which a table is built whatever laws it breaks


class Table(BaseModel):
    """One table of a recipe. Immutable; unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield every broken law between the keys of this table, whose own types are already right."""
        yield from ()

    @model_validator(mode="after")
    def _check_constraints(self, info: Any) -> "Table":
        if info.context is UNCONSTRAINED:
            return self
        if problems := list(self.constraint_violations()):
            raise PydanticCustomError("laws", "broken laws", {"problems": problems})
        return self


def _as_pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

Pair = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_as_pair)]
"""Rows and columns; one number in the recipe means both."""

Listed = Strict(False)
"""Marks a tuple that a recipe writes as a TOML array."""
