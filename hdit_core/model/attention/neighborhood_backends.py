"""Selects the backend of neighborhood attention: the best one available for a target, or the one that is requested.

All backends are exact and take the same arguments, so weights do not depend on the choice. The choice is made once per
target and logged with its reason; there is no silent fallback.
"""

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch

from hdit_core.errors import UsageError
from hdit_core.model.attention import native as native_backend
from hdit_core.model.attention import tiled_pytorch
from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.recipe.model import AttentionBackend, ModelRecipe


@runtime_checkable
class Implementation(Protocol):
    """The interface of a backend's module."""

    attend: AttentionFn
    """The attention function, (q, k, v, kernel_size) -> output; see `neighborhood_attention`."""

    def unavailable(self, target: KernelTarget) -> str | None:
        """Return why the backend cannot run on a target of its device type, or None if it can."""

    def describe(self, target: KernelTarget) -> str:
        """Return the backend's name in the log, for a target on which it can run."""


@dataclass(frozen=True)
class Backend:
    """A backend by name. Modules of CUDA backends are imported lazily: they load torch's compiler, which takes 2 s.

    Attributes:
        module: import path of its `Implementation`.
        device_type: the only device type it supports; None: any.
        nondeterministic: why its results may differ from call to call, as a clause; None: they never do.
        preferred: why it is chosen before the backends listed after it, if the log should say so.
    """

    name: str
    module: str
    device_type: str | None
    nondeterministic: str | None = None
    preferred: str | None = None

    @property
    def implementation(self) -> Implementation:
        """The imported module."""
        return importlib.import_module(self.module)

    @property
    def attend(self) -> AttentionFn:
        """The attention function, (q, k, v, kernel_size) -> output."""
        return self.implementation.attend

    def fits(self, target: KernelTarget) -> bool:
        """Return whether the backend supports devices of the target's type."""
        return self.device_type in (None, target.device.type)

    def missing(self, target: KernelTarget) -> str | None:
        """Return why the backend cannot run on a target, or None if it can."""
        if not self.fits(target):
            return f"it runs on {self.device_type} devices only, the network is on {target.device.type}"
        if target.deterministic and self.nondeterministic:
            return f"--deterministic is set, and {self.nondeterministic}"
        return self.implementation.unavailable(target)


BACKENDS = {
    backend.name: backend
    for backend in (  # for each device type, the best one first
        Backend("native", native_backend.__name__, "cpu"),
        # NATTEN documents one deterministic backward kernel, behind a setting, and nothing about the others
        Backend(
            "natten",
            "hdit_core.model.attention.natten",
            "cuda",
            "natten does not guarantee determinism for all of its kernels",
            "preferred over hdit's Triton kernels, which have not been timed against it on a GPU yet",
        ),
        # deterministic: each output element is accumulated by one program
        Backend("triton", "hdit_core.model.attention.triton", "cuda"),
        # torch documents the Triton kernels of its backward pass, which are its default, as deterministic
        Backend("flex", "hdit_core.model.attention.flex", "cuda"),
        Backend("tiled", tiled_pytorch.__name__, None),
    )
}


@dataclass(frozen=True)
class Choice:
    """The backend selected for a target, and the reason."""

    name: str
    attend: AttentionFn
    reason: str

    @property
    def note(self) -> str:
        """The choice and its reason, as a line for the log."""
        return f"neighborhood attention: {self.reason}"


@lru_cache(maxsize=64)
def select_backend(target: KernelTarget, wanted: AttentionBackend = "auto") -> Choice:
    """Return the backend to use on a target.

    Args:
        target: device, dtype and head dimension.
        wanted: the recipe's `model.attention_backend`; "auto": the best available one.

    Raises:
        UsageError: the requested backend cannot run on the target.
    """
    if wanted != "auto":
        return _forced(target, wanted)
    unavailable = []
    for backend in BACKENDS.values():
        if not backend.fits(target):
            continue
        if missing := backend.missing(target):
            unavailable.append(missing)
        else:
            reasons = [*unavailable, backend.preferred] if backend.preferred else unavailable
            return _select(backend, target, "; ".join(reasons))
    raise AssertionError("tiled attention runs everywhere")


def _select(backend: Backend, target: KernelTarget, why: str) -> Choice:
    name = backend.implementation.describe(target)
    return Choice(backend.name, backend.attend, f"{name}: {why}" if why else name)


def _forced(target: KernelTarget, wanted: str) -> Choice:
    backend = BACKENDS[wanted]
    if missing := backend.missing(target):
        available = [name for name, other in BACKENDS.items() if not other.missing(target)]
        raise UsageError(
            f"model.attention_backend = {wanted!r} cannot run here: {missing}; available: auto, {', '.join(available)}"
        )
    return _select(backend, target, "set by model.attention_backend")


def availability(target: KernelTarget) -> dict[str, str | None]:
    """Return for every backend name why it cannot run on a target, or None if it can."""
    return {name: backend.missing(target) for name, backend in BACKENDS.items()}


def selected_backends(model: ModelRecipe, device: torch.device, dtype: torch.dtype) -> list[Choice]:
    """Return the distinct backend choices for a network's levels with neighborhood attention.

    Args:
        model: the network's recipe.
        device: where the network runs.
        dtype: of queries and keys, see `devices.compute_dtype`.

    Raises:
        UsageError: the recipe's `attention_backend` cannot run on the device.
    """
    device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as on tensors
    dims = dict.fromkeys(level.head_dim for level in model.levels if level.attention == "neighborhood")
    return list(
        dict.fromkeys(select_backend(KernelTarget(device, dtype, dim), model.attention_backend) for dim in dims)
    )
