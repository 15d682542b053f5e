"""The planned memory of Muon's step, compared with the measured memory."""

from dataclasses import replace

import pytest

from hdit_core.plan.memory import training_memory
from hdit_core.plan.muon import MatrixStack
from hdit_core.recipe.read import check_recipe
from tests.plan.test_memory import ON_A_CPU, measured_peak


def wide(optimizer: str):
    levels = [{"depth": 2, "width": 256, "attention": "global", "head_dim": 32}]
    model = {"image_size": [16, 24], "levels": levels}
    train = {"num_images": 1000, "batch_size": 2, "optimizer": optimizer}
    return check_recipe({"model": model, "train": train}, "a test")


def test_a_muon_step_dominated_by_weights_stays_under_its_plan():
    planned = training_memory(wide("muon").model, 2, replace(ON_A_CPU, muon=True))

    peak = measured_peak(wide("muon"))
    assert peak <= planned.total - planned.fixed <= 1.15 * peak


def test_without_muon_its_workspace_is_not_planned():
    model = wide("adamw").model
    with_muon, without = (training_memory(model, 2, replace(ON_A_CPU, muon=muon)) for muon in (True, False))

    assert with_muon.work_space > without.work_space


@pytest.mark.parametrize(("value_bytes", "numbers"), [(4, 4 + 4 * 5), (2, 4 + 2 * 5)])
def test_the_planned_workspace_of_a_square_matrix_covers_its_copies(value_bytes, numbers):
    assert MatrixStack(3, 64, 64).workspace(value_bytes) >= numbers * 3 * 64**2
