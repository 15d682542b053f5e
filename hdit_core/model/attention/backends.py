"""Which implementation computes neighborhood attention: the best that can run at a target, or the one asked for.

All are exact and take the same arguments, so that weights do not depend on the choice. It is made once for a target and
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
from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.recipe.model import AttentionBackend, ModelRecipe


@runtime_checkable
class Implementation(Protocol):
    """What the module of an implementation has."""

    attend: AttentionFn
    """Of (q, k, v, kernel_size); see `neighborhood_attention`."""

    def unavailable(self, target: KernelTarget) -> str | None:
        """Return what is missing for it at a target of its type, None where it can run."""

    def describe(self, target: KernelTarget) -> str:
        """Return how the log calls it at a target where it can run."""


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
    def attend(self) -> AttentionFn:
        """The function of (q, k, v, kernel_size)."""
        return self.implementation.attend

    def fits(self, target: KernelTarget) -> bool:
        """Whether it is for devices of that type at all."""
        return self.device_type in (None, target.device.type)

    def missing(self, target: KernelTarget) -> str | None:
        """Return what keeps it from running at a target, None where nothing does."""
        if not self.fits(target):
            return f"it is for {self.device_type} devices, the network is on {target.device.type}"
        if target.deterministic and self.varies:
            return f"--deterministic is asked for, and {self.varies}"
        return self.implementation.unavailable(target)


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
    """An implementation that can run at a target, and why it is this one."""

    name: str
    attend: AttentionFn
    reason: str

    @property
    def note(self) -> str:
        """A line for the user."""
        return f"neighborhood attention: {self.reason}"


@lru_cache(maxsize=64)
def select_backend(target: KernelTarget, wanted: AttentionBackend = "auto") -> Choice:
    """Return the implementation for a target.

    Args:
        wanted: the recipe's `model.attention_backend`.

    Raises:
        UsageError: what is wanted cannot run there; says what is missing.
    """
    if wanted != "auto":
        return _forced(target, wanted)
    passed_over = []
    for backend in BACKENDS.values():
        if not backend.fits(target):
            continue
        if missing := backend.missing(target):
            passed_over.append(missing)
        else:
            reasons = [*passed_over, backend.preferred] if backend.preferred else passed_over
            return _select(backend, target, "; ".join(reasons))
    raise AssertionError("tiled attention runs everywhere")


def _select(backend: Backend, target: KernelTarget, why: str) -> Choice:
    name = backend.implementation.describe(target)
    return Choice(backend.name, backend.attend, f"{name}: {why}" if why else name)


def _forced(target: KernelTarget, wanted: str) -> Choice:
    backend = BACKENDS[wanted]
    if missing := backend.missing(target):
        possible = [name for name, other in BACKENDS.items() if not other.missing(target)]
        raise UsageError(
            f"model.attention_backend = {wanted!r} cannot run here: {missing}; possible are auto, {', '.join(possible)}"
        )
    return _select(backend, target, "model.attention_backend asks for it")


def availability(target: KernelTarget) -> dict[str, str | None]:
    """Return every implementation by name with what is missing for it at a target, None where it can run."""
    return {name: backend.missing(target) for name, backend in BACKENDS.items()}


def selected_backends(model: ModelRecipe, device: torch.device, dtype: torch.dtype) -> list[Choice]:
    """Return the choices that a network makes for its levels of neighborhood attention, each once.

    Args:
        dtype: in which its queries and keys are, see `devices.compute_dtype`.

    Raises:
        UsageError: the recipe's `attention_backend` cannot run there.
    """
    device = torch.empty(0, device=device).device  # tensors say "cuda:0" where "cuda" was asked for
    dims = dict.fromkeys(level.head_dim for level in model.levels if level.attention == "neighborhood")
    return list(
        dict.fromkeys(select_backend(KernelTarget(device, dtype, dim), model.attention_backend) for dim in dims)
    )
