"""Where a run stands, beside its tensors."""

from pydantic import BaseModel, ConfigDict

from hdit_core.checkpoint.memory import Memory, Skip


class State(BaseModel):
    """What `state.json` of a checkpoint says. Later fields have defaults, so that older checkpoints stay loadable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    num_images: int
    data_hash: str
    elapsed_s: float = 0.0
    world_size: int = 1
    init_from: str = ""  # sha256 of the weights that the run began with, see `train.init_from`
    skips: tuple[Skip, ...] = ()  # images of the order that are passed over, see `train.rollback`
    deterministic: bool = False  # whether all steps so far were taken with --deterministic
    memory: Memory = Memory()  # of the steps before
