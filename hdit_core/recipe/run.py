"""The whole recipe."""

from collections.abc import Iterator

from pydantic import Field

from hdit_core.recipe.base_table import Problem, Table
from hdit_core.recipe.data import ConditionRecipe, DataRecipe, degraded_channels
from hdit_core.recipe.diffusion import DiffusionRecipe
from hdit_core.recipe.evaluate import EvaluateRecipe
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.sample import SampleRecipe
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

    @property
    def condition_image_channels(self) -> int:
        """Channels of the condition image, which the network sees or sampling starts from; 0 without."""
        if self.model.condition_channels or self.diffusion.start == "noise":
            return self.model.condition_channels
        return degraded_channels(self.condition.degrade, self.model.channels)

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between tables."""
        yield from self._guidance_problems()
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
        if self.diffusion.start == "image":
            yield from self._start_problems()

    def _guidance_problems(self) -> Iterator[Problem]:
        """Yield the guidance that needs an input which the network lacks, or was always trained with."""
        for key, needed, dropout in (
            ("guidance", "num_classes", "class_dropout"),
            ("condition_guidance", "condition_channels", "condition_dropout"),
            ("vector_guidance", "mapping_cond_dim", "condition_dropout"),
        ):
            if (scale := getattr(self.sample, key)) == 1:
                continue
            if not getattr(self.model, needed):
                needs = "needs classes, but" if key == "guidance" else "has no effect:"
                yield f"sample.{key}", f"{scale} {needs} model.{needed} is 0; set it to 1 to sample without guidance"
            elif not getattr(self.train, dropout):
                yield (
                    f"sample.{key}",
                    f"{scale} needs a network that was trained with train.{dropout}, which is 0 here; leave it at 1",
                )

    def _condition_problems(self) -> Iterator[Problem]:
        model, degrade = self.model, self.condition.degrade
        for key, problem in self.condition.channel_problems(model.channels):
            yield f"condition.{key}", problem
        is_start = self.diffusion.start == "image"
        wanted = degraded_channels(degrade, model.channels)
        if degrade and model.condition_channels != wanted and (model.condition_channels or not is_start):
            yield (
                "model.condition_channels",
                f"{model.condition_channels}, but condition.degrade makes condition images of {wanted}; set it to "
                f"{wanted}",
            )
        if self.condition_image_channels and self.data.augment_prob:
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

    def _start_problems(self) -> Iterator[Problem]:
        """Yield settings that are incompatible with a flow from the condition image."""
        channels, found = self.model.channels, self.condition_image_channels
        if found not in (1, channels):
            counts = f"{channels} channels" if channels == 1 else f"1 or {channels} channels"
            yield "diffusion.start", f"'image' starts from a condition image of {counts}, found {found}"
        if self.model.condition_channels and not self.diffusion.start_noise:
            yield (
                "diffusion.start_noise",
                "0 with model.condition_channels: the network would see its start and learn to subtract it, which "
                "fails at sigma_max; set it, for example to 0.1, or set model.condition_channels to 0",
            )
        if self.train.condition_dropout:
            yield "train.condition_dropout", "must be 0 with diffusion.start = 'image', whose start cannot be dropped"
        if key := self.sample.noise_key:
            yield (
                f"sample.{key}",
                "adds noise to a flow with diffusion.start = 'image', which is deterministic; use sample.eta = 0 "
                "without churn, or sample.sampler = 'heun' or 'dpmpp_2m'",
            )
