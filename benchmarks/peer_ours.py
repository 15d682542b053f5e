"""The side of `peer.py` that runs this project: a training step of the trainer, and one denoiser evaluation."""

import torch
from safetensors.torch import load_file, save_file

from hdit_core.data.loader.batch import Batch
from hdit_core.distributed import World
from hdit_core.recipe.read import check_recipe
from hdit_core.train.step.batch_plan import PlannedStep
from hdit_core.train.step.build import build_learner

BATCH, SIZE = 4, 128


def recipe(attention, compiled=False):
    """Return the recipe of the model that both sides run."""
    levels = [{"depth": 2, "width": 128, "attention": attention}, {"depth": 4, "width": 256, "attention": "global"}]
    train = {"num_images": 1_000_000, "batch_size": BATCH, "precision": "float32", "compile": compiled}
    return check_recipe({"model": {"image_size": SIZE, "levels": levels}, "train": train}, "peer")


class Side:
    """The model, optimizer and EMA, built as in `hdit train`."""

    def __init__(self, folder, attention, compiled):
        self.inputs = load_file(f"{folder}/inputs.safetensors")
        self.learner = build_learner(recipe(attention, compiled), None, World())
        for network in (self.learner.ema.source, self.learner.ema.network):
            network.load_state_dict(load_file(f"{folder}/ours.safetensors"))
        self.step = PlannedStep(number=1000, num_images=1000 * BATCH, batch_size=BATCH)
        numbers = torch.arange(self.step.num_images, self.step.num_images + BATCH)
        images, noise = self.inputs["images"], self.inputs["noise"]
        self.batch = Batch(numbers, images, None, torch.zeros(BATCH, 9), noise, torch.rand(BATCH).double())

    def num_parameters(self):
        return sum(parameter.numel() for parameter in self.learner.ema.source.parameters())

    def write_output(self, file):
        with torch.inference_mode():
            save_file({"output": self.learner.ema.network(self.inputs["x"], self.inputs["sigma"]).contiguous()}, file)

    def sample(self):
        """Evaluate the denoiser once, as a sampler does."""
        denoiser = type(self.learner.denoiser)(self.learner.ema.network, self.learner.recipe).eval()
        with torch.inference_mode():
            return denoiser(self.inputs["x"], self.inputs["sigma"])

    def train(self):
        """Take one training step."""
        self.learner.train_step(self.step, iter([self.batch]))
