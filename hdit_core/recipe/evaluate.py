"""`[evaluate]`: what a score is measured with."""

from pydantic import Field

from hdit_core.recipe.table import PositiveInt, Table


class EvaluateRecipe(Table):
    """How `hdit eval-fid --ckpt` scores a run."""

    extractor: str = Field("inception", description="feature network; 'hdit eval-fid --help' lists them")
    num_images: PositiveInt = Field(50_000, description="samples that are drawn and scored")
    reference: str | None = Field(
        None, description="images or saved statistics that train.eval compares with. Default: the run's data"
    )
