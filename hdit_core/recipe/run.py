"""The whole recipe."""

from collections.abc import Iterator

from pydantic import Field

from hdit_core.recipe.data import ConditionRecipe, DataRecipe, degraded_channels
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
    condition: ConditionRecipe = ConditionRecipe()
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
        if (weights := self.train.channel_weights) and len(weights) != self.model.channels:
            yield (
                "train.channel_weights",
                f"{list(weights)} are {len(weights)} numbers, model.channels is {self.model.channels}; give one per "
                "channel",
            )
        yield from self._condition_problems()

    def _condition_problems(self) -> Iterator[Problem]:
        model, degrade = self.model, self.condition.degrade
        for key, needed in (("condition_guidance", "condition_channels"), ("vector_guidance", "mapping_cond_dim")):
            if (scale := getattr(self.sample, key)) != 1 and not getattr(model, needed):
                yield f"sample.{key}", f"{scale} has no effect: model.{needed} is 0"
        for key, problem in self.condition.channel_problems(model.channels):
            yield f"condition.{key}", problem
        if degrade and model.condition_channels != (wanted := degraded_channels(degrade, model.channels)):
            yield (
                "model.condition_channels",
                f"{model.condition_channels}, but condition.degrade makes condition images of {wanted}; set it to "
                f"{wanted}",
            )
        if model.condition_channels and self.data.augment_prob:
            yield (
                "data.augment_prob",
                f"{self.data.augment_prob} would warp the image but not its condition image; set it to 0, and use "
                "data.mirror for flips",
            )
        if self.train.condition_dropout and not (model.condition_channels or model.mapping_cond_dim):
            yield (
                "train.condition_dropout",
                f"{self.train.condition_dropout} has no effect: model.condition_channels and model.mapping_cond_dim "
                "are 0",
            )
