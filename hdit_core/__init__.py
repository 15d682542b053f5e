"""Hourglass Diffusion Transformers (Crowson et al., ICML 2024, arXiv 2401.11605): image diffusion directly in pixels.

Axis legend of every shape in this library:

    B batch        H W rows and columns of a grid (pixels or tokens)        C channels
    N heads        D features per head        M features of the mapping network        K classes        T sampler steps

Images are `[B, C, H, W]` in [-1, 1] at the library's edge and channels last inside `hdit_core.model`.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Return `hdit_core.api`, imported when it is first used."""
    if name == "api":
        return importlib.import_module("hdit_core.api")
    raise AttributeError(f"module 'hdit_core' has no attribute {name!r}")
