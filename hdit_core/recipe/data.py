"""`[data]`: which images, and what is done to them on the way to the network."""

from pydantic import Field

from hdit_core.recipe.table import NonNegativeInt, Probability, Table


class DataRecipe(Table):
    """The data set that `hdit prepare-data` made, and how it is read."""

    path: str = Field("data", description="folder of shards; relative to where the command runs")
    workers: NonNegativeInt = Field(2, description="processes that read and decode, on each rank; 0: none")
    augment_prob: Probability = Field(
        0.0, description="probability of each augmentation; 0 turns all of them off, the mirror image too"
    )
