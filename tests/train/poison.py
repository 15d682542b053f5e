"""Numbers that are not finite, put into training at a place of one's choice; for tests."""

import math
from dataclasses import dataclass

import torch

from hdit_core.train.step.train_step import Learner


@dataclass(frozen=True)
class Poison:
    """Where a step gets a bad number: into the loss of an image, or into the gradient of a parameter.

    Attributes:
        step: the step's number.
        value: for a loss, NaN is added, so that its gradient stays finite, and any other multiplied in.
        image: whose loss it is, by its place in the global batch; None: a gradient.
        parameter: whose gradient it is.
        number: of the image in the run, whose loss it is in whichever step it comes.
    """

    step: int
    value: float
    image: int | None = None
    parameter: str = "patch_in.proj.weight"
    number: int | None = None


def poisoned(monkeypatch, poison):
    """Let every learner meet the poison; return the list of the steps in which it did."""
    losses, backward, met, at = Learner.losses, Learner._backward, [], {}

    def note(learner, step, *arguments):
        at["step"] = step
        return measure(learner, step, *arguments)

    def bad_losses(learner, batch, sigma):
        found, step = losses(learner, batch, sigma), at.get("step")
        wanted = poison.number
        if wanted is None and poison.image is not None and step and step.number == poison.step:
            wanted = step.first + poison.image
        hit = batch.numbers == (-1 if wanted is None else wanted)
        if hit.any():
            met.append(step.number)
            bad = found + poison.value if math.isnan(poison.value) else found * poison.value
            found = torch.where(hit.to(found.device), bad, found)
        return found

    def bad_gradient(learner, step, batches):
        shares = backward(learner, step, batches)
        if poison.image is None and poison.number is None and step.number == poison.step:
            met.append(poison.step)
            gradient = dict(learner.ema.source.named_parameters())[poison.parameter].grad
            gradient.view(-1)[-1] = poison.value
        return shares

    measure = Learner.forward_backward
    monkeypatch.setattr(Learner, "forward_backward", note)
    monkeypatch.setattr(Learner, "losses", bad_losses)
    monkeypatch.setattr(Learner, "_backward", bad_gradient)
    return met
