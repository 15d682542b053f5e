"""`[evaluate]`: how a run is scored."""

from pydantic import Field

from hdit_core.recipe.base_table import Path, PositiveInt, Table


class EvaluateRecipe(Table):
    """How `hdit eval-fid --ckpt` scores a run."""

    extractor: str = Field("inception", description="feature network; `hdit eval-fid --help` lists them")
    num_images: PositiveInt = Field(50_000, description="number of samples to generate and score")
    reference: Path | None = Field(
        None,
        description="reference images or statistics for `train.eval_every_images`. Default: the training data",
    )
