"""The Python API: the main commands as functions, described in docs/python.md.

    from hdit_core.api import generate, prepare_data, score, train

Each function calls what its command calls, with the same defaults and results. Paths may be strings or `pathlib.Path`.
Progress and messages go to stderr; `progress=False` leaves only warnings. Errors that a user can fix are `HditError`s
of one line.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdit_core.api.preparation import prepare_data
    from hdit_core.api.recipes import read_recipe
    from hdit_core.api.sampling import generate, load_denoiser
    from hdit_core.api.scoring import score
    from hdit_core.api.training import TrainedRun, train
    from hdit_core.data.dataset import PreparedDataset
    from hdit_core.data.prepare.run import PrepareSummary
    from hdit_core.diffusion.precondition import Denoiser
    from hdit_core.errors import HditError
    from hdit_core.evaluate.report.result import Score
    from hdit_core.generate.pipeline import Samples
    from hdit_core.recipe.run import Recipe

__all__ = [
    "Denoiser",
    "HditError",
    "PrepareSummary",
    "PreparedDataset",
    "Recipe",
    "Samples",
    "Score",
    "TrainedRun",
    "generate",
    "load_denoiser",
    "prepare_data",
    "read_recipe",
    "score",
    "train",
]

_MODULES = {
    "Denoiser": "hdit_core.diffusion.precondition",
    "HditError": "hdit_core.errors",
    "PrepareSummary": "hdit_core.data.prepare.run",
    "PreparedDataset": "hdit_core.data.dataset",
    "Recipe": "hdit_core.recipe.run",
    "Samples": "hdit_core.generate.pipeline",
    "Score": "hdit_core.evaluate.report.result",
    "TrainedRun": "hdit_core.api.training",
    "generate": "hdit_core.api.sampling",
    "load_denoiser": "hdit_core.api.sampling",
    "prepare_data": "hdit_core.api.preparation",
    "read_recipe": "hdit_core.api.recipes",
    "score": "hdit_core.api.scoring",
    "train": "hdit_core.api.training",
}


def __getattr__(name: str) -> Any:
    """Return a function or class, whose module is imported when it is first used: processes that prepare data import
    the caller's script, and do not need torch.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'hdit_core.api' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the names of the API."""
    return __all__
