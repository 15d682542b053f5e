"""Where a run stands, beside its tensors."""

from pydantic import BaseModel, ConfigDict

SIGMA_BINS = 12


class SkippedImages(BaseModel):
    """Images of the order that are passed over, since the weights did not survive them.

    Attributes:
        after_images: images that are trained on before.
        images: how many are passed over; a whole step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_images: int
    images: int


class LogWindow(BaseModel):
    """Sums over the steps since the last line of the log.

    Attributes:
        loss: sum of the steps' losses; as `grad_norm` and `grad_norms` (by part of the network) of their gradients.
        bin_images: images by noise level, see `hdit_core/train/interval.py`.
        bin_losses: sums of their losses.
        flops: floating-point operations of the products, forward and backward, over all ranks.
        waited_s: of `elapsed_s`, for images to be read.
        compile_s: beside `elapsed_s`.
        spikes: steps of which the loss or the gradient was a spike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = 0
    num_images: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    grad_norms: dict[str, float] = {}
    bin_images: tuple[int, ...] = (0,) * SIGMA_BINS
    bin_losses: tuple[float, ...] = (0.0,) * SIGMA_BINS
    flops: float = 0.0
    elapsed_s: float = 0.0
    waited_s: float = 0.0
    compile_s: float = 0.0
    spikes: int = 0


class StepHistory(BaseModel):
    """What later steps are told of earlier ones.

    Attributes:
        interval: what the next line of the log is made of.
        losses: of the last steps, oldest first; what is usual, for spikes to stand out from.
        grad_norms: the same.
        damaged: images of the data set that were found damaged, and how; others stand in for them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    interval: LogWindow = LogWindow()
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()
    damaged: dict[int, str] = {}


class State(BaseModel):
    """What `state.json` of a checkpoint says. Later fields have defaults, so that older checkpoints stay loadable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    num_images: int
    data_hash: str
    elapsed_s: float = 0.0
    world_size: int = 1
    init_from: str = ""  # sha256 of the weights that the run began with, see `train.init_from`
    skips: tuple[SkippedImages, ...] = ()  # images of the order that are passed over, see `train.rollback`
    deterministic: bool = False  # whether all steps so far were taken with --deterministic
    memory: StepHistory = StepHistory()  # of the steps before
