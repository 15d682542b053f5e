"""Where a run stands after a step: everything that a checkpoint keeps beside the tensors."""

from hdit_core.checkpoint.memory import Interval
from hdit_core.checkpoint.state import State
from hdit_core.train.interval import with_step
from hdit_core.train.plan import Step
from hdit_core.train.result import StepResult
from hdit_core.train.spikes import remembered


def advanced(
    state: State,
    step: Step,
    result: StepResult,
    *,
    flops: float,
    elapsed_s: float,
    waited_s: float,
    spikes: int,
    damaged: dict[int, str],
) -> State:
    """Return where the run stands after a step.

    Args:
        state: before it.
        flops: of the step's products over all ranks.
        elapsed_s: that the step took, compiling left out.
        waited_s: of that, for images.
        spikes: 1 if the step stood out.
        damaged: images that were found damaged so far, and how.
    """
    sums = with_step(state.memory.interval, result, flops=flops, elapsed_s=elapsed_s, waited_s=waited_s, spikes=spikes)
    memory = remembered(state.memory, result).model_copy(update={"interval": sums, "damaged": damaged})
    return state.model_copy(
        update={
            "step": step.number + 1,
            "num_images": step.num_images + step.batch_size,
            "elapsed_s": state.elapsed_s + elapsed_s,
            "memory": memory,
        }
    )


def with_new_interval(state: State) -> State:
    """Return the state after a line of the log: the sums begin anew."""
    return state.model_copy(update={"memory": state.memory.model_copy(update={"interval": Interval()})})
