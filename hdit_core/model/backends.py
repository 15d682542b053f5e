"""Which implementation computes neighborhood attention: the best that can run at a place, or the one asked for.

All are exact and take the same arguments, so that weights do not depend on the choice. It is made once for a place and
said with its reason; nothing falls back in silence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hdit_core.errors import UsageError
from hdit_core.model import tiled
from hdit_core.model.place import Place
from hdit_core.recipe.model import AttentionBackend, ModelRecipe

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Backend:
    """An implementation.

    Attributes:
        attend: of (q, k, v, kernel_size), see `neighborhood_attention`.
        device_type: the only type of device it is for; None: any.
        unavailable: what is missing for it at a place of that type, None where it can run.
        describe: how the log calls it at a place where it can run.
    """

    name: str
    attend: Attend
    device_type: str | None
    unavailable: Callable[[Place], str | None]
    describe: Callable[[Place], str]

    def fits(self, place: Place) -> bool:
        """Whether it is for devices of that type at all."""
        return self.device_type in (None, place.device.type)

    def missing(self, place: Place) -> str | None:
        """Return what keeps it from running at a place, None where nothing does."""
        if not self.fits(place):
            return f"it is for {self.device_type} devices, the network is on {place.device.type}"
        return self.unavailable(place)


BACKENDS = {  # the best first
    backend.name: backend
    for backend in (Backend("tiled", tiled.tiled_attention, None, tiled.unavailable, tiled.describe),)
}


@dataclass(frozen=True)
class Choice:
    """An implementation that can run at a place, and why it is this one."""

    name: str
    attend: Attend
    reason: str

    @property
    def note(self) -> str:
        """A line for the user."""
        return f"neighborhood attention: {self.reason}"


@lru_cache(maxsize=64)
def choose(place: Place, wanted: AttentionBackend = "auto") -> Choice:
    """Return the implementation for a place.

    Args:
        wanted: the recipe's `model.attention_backend`.

    Raises:
        UsageError: what is wanted cannot run there; says what is missing.
    """
    if wanted != "auto":
        return _forced(place, wanted)
    passed_over = []
    for backend in BACKENDS.values():
        if not backend.fits(place):
            continue
        if missing := backend.missing(place):
            passed_over.append(missing)
        else:
            return Choice(backend.name, backend.attend, ": ".join([backend.describe(place), *passed_over[:1]]))
    raise AssertionError("tiled attention runs everywhere")


def _forced(place: Place, wanted: str) -> Choice:
    backend = BACKENDS[wanted]
    if missing := backend.missing(place):
        possible = [name for name, other in BACKENDS.items() if not other.missing(place)]
        raise UsageError(
            f"model.attention_backend = {wanted!r} cannot run here: {missing}; possible are auto, {', '.join(possible)}"
        )
    return Choice(backend.name, backend.attend, f"{backend.describe(place)}: model.attention_backend asks for it")


def availability(place: Place) -> dict[str, str | None]:
    """Return every implementation by name with what is missing for it at a place, None where it can run."""
    return {name: backend.missing(place) for name, backend in BACKENDS.items()}


def chosen(model: ModelRecipe, device: torch.device, dtype: torch.dtype) -> list[Choice]:
    """Return the choices that a network makes for its levels of neighborhood attention, each once.

    Args:
        dtype: in which its queries and keys are, see `devices.compute_dtype`.

    Raises:
        UsageError: the recipe's `attention_backend` cannot run there.
    """
    dims = dict.fromkeys(level.head_dim for level in model.levels if level.attention == "neighborhood")
    return list(dict.fromkeys(choose(Place(device, dtype, dim), model.attention_backend) for dim in dims))
