"""The whole recipe."""

from collections.abc import Iterator

from pydantic import Field

from hdit_core.recipe.data import DataRecipe
from hdit_core.recipe.diffusion import DiffusionRecipe
from hdit_core.recipe.evaluate import EvaluateRecipe
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.sample import SampleRecipe
from hdit_core.recipe.table import Problem, Table
from hdit_core.recipe.train import TrainRecipe


class Recipe(Table):
    """Everything that determines the result of a run, and nothing about the machine it runs on."""

    model: ModelRecipe
    diffusion: DiffusionRecipe = DiffusionRecipe()
    data: DataRecipe = DataRecipe()
    train: TrainRecipe
    sample: SampleRecipe = Field(default_factory=SampleRecipe)
    evaluate: EvaluateRecipe = EvaluateRecipe()

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between tables."""
        if self.sample.guidance != 1 and not self.model.num_classes:
            yield "sample.guidance", f"{self.sample.guidance} needs classes, but model.num_classes is 0"
        checkpointed, levels = self.train.activation_checkpointing, len(self.model.levels)
        if not isinstance(checkpointed, bool) and checkpointed > levels:
            yield "train.activation_checkpointing", f"{checkpointed} is more than the {levels} levels of the model"
