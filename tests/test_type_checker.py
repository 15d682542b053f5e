"""While the tests run, every call into hdit_core is checked against its annotations."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from hdit_core.distributed import World
from hdit_core.model.rotary_embedding import coarser, grid_positions
from tests.type_checker import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

check = checked(typechecker=beartype)


@check
def row_sums(x: Float[Tensor, "B C"], scale: Float[Tensor, " B"], wrong: bool = False) -> Float[Tensor, " B"]:
    return (x[:, 0] if wrong is False else x[0]) * (1 if wrong else scale)


@check
def rows(x: Float[Tensor, "B C"]) -> Iterator[Float[Tensor, " C"]]:
    yield from x


@check
def length(word: str, found: object = None) -> int:
    return len(word) if found is None else found


@check
def draw(axes: "Axes | None", width: int) -> None:
    assert axes is None and width


@check
@dataclass
class Size:
    height: int
    crop: "Size | None" = None


@pytest.mark.parametrize(
    "call",
    [
        lambda: coarser(torch.zeros(4, 6, 3)),
        lambda: grid_positions("4", 6, torch.device("cpu")),
        lambda: World(rank="first"),
    ],
)
def test_a_call_into_hdit_core_with_an_argument_of_another_shape_or_type_fails(call):
    with pytest.raises(TypeCheckError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: row_sums(torch.zeros(2, 3), torch.zeros(3)),
        lambda: row_sums(torch.zeros(2, 3).int(), torch.zeros(2)),
        lambda: row_sums(torch.zeros(2, 3), torch.zeros(2), wrong=True),  # a result of C numbers
        lambda: rows([1.0]),
        lambda: length(b"four"),
        lambda: length("four", found="4"),
        lambda: draw(None, "4"),  # beside a type that is imported for type checkers only
        lambda: Size("4"),
        lambda: Size(4, crop=4),
    ],
)
def test_arguments_results_and_their_common_sizes_are_checked(call):
    with pytest.raises(TypeCheckError):
        call()


def test_right_calls_pass():
    assert row_sums(torch.ones(2, 3), torch.ones(2)).tolist() == [1, 1]
    assert len(list(rows(torch.ones(2, 3)))) == 2 and length("four") == 4 and Size(4, crop=Size(2)).crop.height == 2
    draw(None, 4)
    assert length.__name__ == "length" and length.__wrapped__("four") == 4


def test_checks_can_be_disabled():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert length("four", found="4") == "4"
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(TypeCheckError):
        length("four", found="4")
