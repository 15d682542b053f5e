"""The state of a run other than its tensors."""

from pydantic import BaseModel, ConfigDict

SIGMA_BINS = 12


class SkippedImages(BaseModel):
    """Images that are skipped after a rollback.

    Attributes:
        after_images: images that are trained on before.
        images: number of skipped images; a whole step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_images: int
    images: int


class LogWindow(BaseModel):
    """Sums over the steps since the last line of the log.

    Attributes:
        loss: sum of the losses; `grad_norm` and `grad_norms` (by part of the model) are sums of gradient norms.
        bin_images: images by noise level, see `hdit_core/train/monitor/metrics.py`.
        bin_losses: sums of their losses.
        flops: floating-point operations of the matrix products, forward and backward, over all ranks.
        waited_s: the part of `elapsed_s` spent waiting for images.
        compile_s: compile time, not part of `elapsed_s`.
        spikes: steps with a spike of loss or gradient.
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
    """What later steps need to know of earlier ones.

    Attributes:
        interval: the sums for the next line of the log.
        losses: of the last steps, oldest first; spikes are detected against them.
        grad_norms: the same for gradient norms.
        damaged: corrupt images of the data set and their defects; other images replace them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    interval: LogWindow = LogWindow()
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()
    damaged: dict[int, str] = {}


class State(BaseModel):
    """The content of a checkpoint's `state.json`. Later fields have defaults, so that older checkpoints load."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    num_images: int
    data_hash: str
    elapsed_s: float = 0.0
    world_size: int = 1
    init_from: str = ""  # sha256 of the initial weights, see `train.init_from`
    skips: tuple[SkippedImages, ...] = ()  # see `train.rollback`
    deterministic: bool = False  # whether all steps so far used --deterministic
    memory: StepHistory = StepHistory()  # of earlier steps
