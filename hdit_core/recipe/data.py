"""`[data]`: which images, in which order, and what is done to them on the way to the network."""

from typing import Literal

from pydantic import Field

from hdit_core.recipe.table import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Table


class DataRecipe(Table):
    """The data set that `hdit prepare-data` made, and how it is read."""

    path: str = Field(
        "data", description="folder of shards, relative to where the command runs; or a remote one: s3://bucket/faces"
    )
    cache_gb: PositiveFloat = Field(50.0, description="10^9 bytes that shards of remote sets may take on this disk")
    order: Literal["uniform", "blocks"] = Field(
        "uniform",
        description="each epoch all images shuffled, or shards shuffled and then images among a few: for slow disks",
    )
    block_shards: PositiveInt = Field(8, description="shards among which `blocks` shuffles images; more mix better")
    workers: NonNegativeInt = Field(2, description="processes that read and decode, on each rank; 0: none")
    max_damaged: NonNegativeInt = Field(
        0, description="damaged images that others stand in for, each told of; one more ends the run"
    )
    augment_prob: Probability = Field(
        0.0, description="probability of each augmentation; 0 turns all of them off, the mirror image too"
    )
