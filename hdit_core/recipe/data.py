"""`[data]`: which images, in which order, and how they are augmented."""

from typing import Literal

from pydantic import Field

from hdit_core.recipe.table import NonNegativeInt, Path, PositiveFloat, PositiveInt, Probability, Table


class DataRecipe(Table):
    """The prepared data set, and how it is read."""

    path: Path = Field(
        "data",
        description="folder that `hdit prepare-data` wrote, relative to the working directory, or a remote address "
        "such as s3://bucket/faces",
    )
    cache_gb: PositiveFloat = Field(
        50.0, description="disk space for the shards of remote data sets, in GB (10^9 bytes)"
    )
    order: Literal["uniform", "blocks"] = Field(
        "uniform",
        description="uniform: each epoch shuffles all images; blocks: it shuffles the shards, then the images within "
        "`block_shards` shards, for slow disks and remote stores",
    )
    block_shards: PositiveInt = Field(8, description="`blocks`: shards among which images are shuffled together")
    workers: NonNegativeInt = Field(2, description="reader processes per rank; 0: the training process reads itself")
    max_damaged: NonNegativeInt = Field(
        0, description="tolerated corrupt images (reported and replaced); one more ends the run"
    )
    augment_prob: Probability = Field(
        0.0, description="probability of each augmentation; 0 disables all, including the horizontal flip"
    )
