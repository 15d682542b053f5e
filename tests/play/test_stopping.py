"""Every kind of job of the page ends within one sampler step after it is stopped, in any batch and round."""

import threading

import numpy as np
import pytest

from hdit_core.images import from_uint8
from hdit_core.play import edits
from hdit_core.play.background import Stopped
from hdit_core.play.live_sampling import samples, watch
from hdit_core.play.request import read_form

IMAGE = from_uint8(np.random.default_rng(0).integers(0, 256, (1, 16, 24, 3), np.uint8))[0]
MASK = np.ones((16, 24), bool)
KINDS = {
    "sample": samples,
    "vary": lambda denoiser, form: edits.vary(denoiser, form, IMAGE, 1.0).make_job,
    "inpaint": lambda denoiser, form: edits.inpaint(denoiser, form, IMAGE, MASK, 3).make_job,
    "interpolate": lambda denoiser, form: edits.interpolate(denoiser, form, 0, 1, 6).make_job,
}
EVALUATIONS_OF_A_STEP = {"euler": 1, "heun": 2, "dpmpp_3m_sde": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", EVALUATIONS_OF_A_STEP)
@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_no_further_step_is_begun_after_the_stop(models, values, kind, sampler, stop_at):
    denoiser, stop, evaluations = models.open("digits", values["weights"]), threading.Event(), []

    def count(*_):
        evaluations.append(stop.is_set())
        if len(evaluations) == stop_at:
            stop.set()

    form = read_form(values | {"count": 10, "steps": 8, "sampler": sampler, "guidance": 2.0}, denoiser.recipe)
    hook = denoiser.network.register_forward_hook(count)
    try:
        with pytest.raises(Stopped):
            list(watch(KINDS[kind](denoiser, form), stop, 0.0))
    finally:
        hook.remove()
    of_a_step = EVALUATIONS_OF_A_STEP[sampler] * (2 if kind == "interpolate" else 1)  # once for each of two classes
    assert len(evaluations) >= stop_at and sum(evaluations) < of_a_step
