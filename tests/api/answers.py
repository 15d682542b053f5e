"""What the API answers to calls that are given as text."""

from pathlib import Path

import torch

from hdit_core.api import PreparedDataset, generate, load_denoiser, prepare_data, read_recipe, score, train


def answers_to(calls: list[str], run: Path, data: str) -> list[str]:
    """Return the error of each call; it may name what a user would have: a denoiser, samples and a data set."""
    denoiser, x = load_denoiser(run), torch.zeros(2, 3, 16, 24)
    named = {
        "denoiser": denoiser,
        "x": x,
        "classes": torch.tensor([0, 1]),
        "dataset": PreparedDataset(data),
        "samples": generate(denoiser, 2, steps=1, progress=False),
        "data": data,
    }
    functions = [PreparedDataset, generate, load_denoiser, prepare_data, read_recipe, score, train]
    named |= {function.__name__: function for function in functions} | {"torch": torch}
    return [_answer(call, named) for call in calls]


def _answer(call: str, named: dict[str, object]) -> str:
    try:
        eval(call, named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"accepted: {call}"
