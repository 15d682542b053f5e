"""Which implementation computes neighborhood attention: the best that can run at a place, or the one asked for.

All are exact and take the same arguments, so that weights do not depend on the choice. It is made once for a place and
said with its reason; nothing falls back in silence.
"""

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch

from hdit_core.errors import UsageError
from hdit_core.model.attention import native as native_backend
from hdit_core.model.attention import tiled
from hdit_core.model.attention.interface import Attend, Place
from hdit_core.recipe.model import AttentionBackend, ModelRecipe


@runtime_checkable
class Implementation(Protocol):
    """What the module of an implementation has."""

    attend: Attend
    """Of (q, k, v, kernel_size); see `neighborhood_attention`."""

    def unavailable(self, place: Place) -> str | None:
        """Return what is missing for it at a place of its type, None where it can run."""

    def describe(self, place: Place) -> str:
        """Return how the log calls it at a place where it can run."""


@dataclass(frozen=True)
class Backend:
    """An implementation by name. Those for CUDA are loaded when asked about: they bring torch's compiler, two seconds.

    Attributes:
        module: where it is, see `Implementation`.
        device_type: the only type of device it is for; None: any.
        varies: why its sums may come in another order the next time, a clause; None: they do not.
        preferred: why it is taken before those that are listed after it, where that has to be said.
    """

    name: str
    module: str
    device_type: str | None
    varies: str | None = None
    preferred: str | None = None

    @property
    def implementation(self) -> Implementation:
        """The module."""
        return importlib.import_module(self.module)

    @property
    def attend(self) -> Attend:
        """The function of (q, k, v, kernel_size)."""
        return self.implementation.attend

    def fits(self, place: Place) -> bool:
        """Whether it is for devices of that type at all."""
        return self.device_type in (None, place.device.type)

    def missing(self, place: Place) -> str | None:
        """Return what keeps it from running at a place, None where nothing does."""
        if not self.fits(place):
            return f"it is for {self.device_type} devices, the network is on {place.device.type}"
        if place.in_one_order and self.varies:
            return f"--deterministic is asked for, and {self.varies}"
        return self.implementation.unavailable(place)


BACKENDS = {
    backend.name: backend
    for backend in (  # the best of each type of device first
        Backend("native", native_backend.__name__, "cpu"),
        # its library names one of its backward passes deterministic, under a setting, and says nothing of the others
        Backend(
            "natten",
            "hdit_core.model.attention.natten",
            "cuda",
            "natten does not promise it for all of its kernels",
            "taken before hdit's Triton kernels, which have not been timed against it on a GPU yet",
        ),
        # each number is added up by one program
        Backend("triton", "hdit_core.model.attention.triton", "cuda"),
        # torch names the Triton kernels of its backward deterministic, which it takes unless others are asked for
        Backend("flex", "hdit_core.model.attention.flex", "cuda"),
        Backend("tiled", tiled.__name__, None),
    )
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
            reasons = [*passed_over, backend.preferred] if backend.preferred else passed_over
            return _choice(backend, place, "; ".join(reasons))
    raise AssertionError("tiled attention runs everywhere")


def _choice(backend: Backend, place: Place, why: str) -> Choice:
    name = backend.implementation.describe(place)
    return Choice(backend.name, backend.attend, f"{name}: {why}" if why else name)


def _forced(place: Place, wanted: str) -> Choice:
    backend = BACKENDS[wanted]
    if missing := backend.missing(place):
        possible = [name for name, other in BACKENDS.items() if not other.missing(place)]
        raise UsageError(
            f"model.attention_backend = {wanted!r} cannot run here: {missing}; possible are auto, {', '.join(possible)}"
        )
    return _choice(backend, place, "model.attention_backend asks for it")


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
    device = torch.empty(0, device=device).device  # tensors say "cuda:0" where "cuda" was asked for
    dims = dict.fromkeys(level.head_dim for level in model.levels if level.attention == "neighborhood")
    return list(dict.fromkeys(choose(Place(device, dtype, dim), model.attention_backend) for dim in dims))
