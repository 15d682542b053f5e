"""Where a run stands, beside its tensors."""

from pydantic import BaseModel, ConfigDict


class State(BaseModel):
    """What `state.json` of a checkpoint says. Later fields have defaults, so that older checkpoints stay loadable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    num_images: int
    data_hash: str
    elapsed_s: float = 0.0
    world_size: int = 1
