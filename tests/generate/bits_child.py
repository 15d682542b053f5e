"""Draws the same images in batches of 1, 7 and 16, on 1 and 2 threads, and prints which come out with other bits.

A process of its own: matrix products choose how they add up once, at the first of them.
"""

import json
import sys

import torch

from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.generate import sample_settings
from hdit_core.generate.generate import generate
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.randomness import stream
from hdit_core.recipe.read import check_recipe


def level(attention, width, **more):
    return {"depth": 1, "width": width, "head_dim": 16, "attention": attention, **more}


# 512 features on 4x6 tokens make sums that MKL would cut up among threads.
NETWORKS = {
    "neighborhood": [level("neighborhood", 32, kernel_size=3), level("global", 512)],
    "windows": [level("shifted-window", 32, window_size=4), level("none", 48)],
}


def denoiser_of(levels, scale):
    model = {"image_size": [16, 24], "patch_size": 2, "num_classes": 3, "mapping_width": 32, "levels": levels}
    recipe = check_recipe({"model": model, "train": {"num_images": 8, "batch_size": 8}}, "bits")
    network = HourglassTransformer(recipe.model)
    for name, tensor in network.state_dict().items():
        values = torch.from_numpy(stream(0, name, 0).standard_normal(tensor.shape, "float32")) * scale
        tensor.copy_(values.abs() + 0.1 if "scale" in name else values)
    return Denoiser(network, recipe).eval().requires_grad_(False)


def pictures(network, settings, guide):
    drawn = generate(network, range(8), seed=5, settings=settings, guide=guide)
    return torch.cat([batch.images for batch in drawn])


def other_bytes(levels, given):
    network, guide = denoiser_of(levels, 0.05), Guide(denoiser_of(levels, 0.045), 1.5)
    preset = {"guidance": 2.0, "guidance_rescale": 0.5, "guidance_interval": [0.6, 30.0]}
    expected, others = None, []
    for threads, batch_size in ((1, 16), (1, 7), (2, 1), (2, 16)):
        torch.set_num_threads(threads)
        settings = sample_settings(network.recipe, **preset, **given, batch_size=batch_size)
        found = pictures(network, settings, guide)
        expected = found if expected is None else expected
        if not torch.equal(found, expected):
            others.append({"threads": threads, "batch_size": batch_size, **given})
    return others


def main():
    for name, given in json.loads(sys.argv[1]):
        for other in other_bytes(NETWORKS[name], given):
            print(json.dumps({"network": name, **other}))


main()
