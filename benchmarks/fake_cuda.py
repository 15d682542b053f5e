"""Checks a training step, sampling and scoring for mistakes on CUDA devices, on a machine without a GPU.

    python -m venv /tmp/cuda && /tmp/cuda/bin/pip install torch -e ".[demo]"      # a CUDA build: 7 GB
    /tmp/cuda/bin/python -m benchmarks.fake_cuda

Tensors say that they are on the GPU, and their numbers are in main memory. Each operation of torch is checked before it
is computed: all of its tensors have to be on one device, and none on the GPU may be float64. What makes the CPU wait
for the GPU is listed, with the line of hdit that does it. The exit code is 1 if a check fails.

Torch asks the driver for the current device at some places, for example in the backward pass. A library that is
compiled at the start answers for a driver with one GPU. The Triton kernels are replaced by plain operations; speed and
memory are not those of a GPU. It needs a C compiler, and works on Linux only.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.fake_device import pretending, with_driver
from hdit_core.bench.sample import _no_conditions as no_conditions
from hdit_core.bench.train import random_batches
from hdit_core.data.loader.augment import AffineWarp
from hdit_core.data.loader.batch import Batch
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.evaluate.extractors.extractor import open_extractor
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.train.step.batch_plan import endless_steps
from hdit_core.train.step.build import build_learner

Activity = Callable[[torch.device, Recipe], None]

SMALL = (
    "train.batch_size=4",
    "train.micro_batch_size=2",
    "train.precision=bfloat16",
    "train.compile=false",  # torch.compile is not for code in which each operation is looked at
    "sample.steps=4",
)
OPTIONS = (  # of mnist32-sr: all that has a code path of its own
    'model.norm="layer"',
    'model.positions="additive"',
    'model.skip="concat"',
    'model.feed_forward="gelu"',
    "model.mapping_cond_dim=3",
    "model.input_offset=0.1",
    "diffusion.loss_scales=0",
    'train.optimizer="muon"',
    "train.ema_profiles=[0.05]",
    "train.channel_weights=[1.0]",
)
SHIFTED = (
    'model.levels=[{depth=2,width=64,attention="shifted-window",window_size=4},{depth=1,width=64,attention="global"}]',
    "data.augment_prob=0.5",
    'sample.sampler="dpmpp_2m_sde"',
)


def recipes() -> dict[str, Recipe]:
    """Return the recipes to check by name."""
    return {
        "mnist32": read_recipe("mnist32", [*SMALL, "sample.guidance=2", "sample.guidance_interval=[0.1,5.0]"]),
        "mnist32, shifted windows": read_recipe("mnist32", [*SMALL, *SHIFTED]),
        "mnist32-sr, other options": read_recipe("mnist32-sr", [*SMALL, *OPTIONS, 'sample.sampler="heun"']),
    }


def train(device: torch.device, recipe: Recipe) -> None:
    """Take two training steps of two micro-batches each."""
    learner = build_learner(recipe, None, World(device=device))
    plan = endless_steps(recipe.train)
    chunks = (chunk for step in endless_steps(recipe.train) for chunk in learner.micro_batches(step))
    with closing(random_batches(recipe, chunks)) as batches:
        warped = map(partly_warped, batches) if recipe.data.augment_prob else batches
        for _ in range(2):
            learner.train_step(next(plan), warped)


def partly_warped(batch: Batch) -> Batch:
    """Return a batch whose first image is still to be resampled."""
    return replace(batch, warp=AffineWarp(torch.tensor([0]), torch.eye(2, 3)[None]))


def sample(device: torch.device, recipe: Recipe) -> None:
    """Generate a batch, with autoguidance."""
    pipeline = small_pipeline(device, recipe)
    generate = SamplingPipeline.generate.__wrapped__  # type: ignore[attr-defined]  # without its inference mode
    with torch.no_grad():
        for batch in generate(pipeline, [0, 1], [pipeline.default_class(index) for index in (0, 1)]):
            assert batch.images.device.type == "cpu"


def small_pipeline(device: torch.device, recipe: Recipe) -> SamplingPipeline:
    """Return a pipeline of two images, guided by the network itself."""
    network = HourglassTransformer(recipe.model)
    initialize(network, 0)
    denoiser = Denoiser(network, recipe).eval().requires_grad_(False).to(device)
    size, inputs = recipe.model.image_size, partial(no_conditions, recipe)
    return SamplingPipeline(denoiser, recipe.sample, 0, size, Guide(denoiser, 1.5), inputs)


def score(device: torch.device, recipe: Recipe) -> None:
    """Compute the features of two images."""
    extractor = open_extractor("efficientnet-lite0", device=device)
    image = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
    extractor.features([extractor.prepare(image)] * 2)


ACTIVITIES: dict[str, Activity] = {"train": train, "sample": sample, "score": score}


def check(device: torch.device, activity: str, name: str, recipe: Recipe) -> dict[str, Any]:
    """Return what an activity does wrong on a device, and where the CPU waits for the GPU."""
    with pretending(device) as checks:
        try:
            ACTIVITIES[activity](device, recipe)
            problem = None
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            traceback.print_exc()
    found = {"mistakes": dict(checks.mistakes), "waits": dict(checks.waits), "operations": checks.operations}
    return {"activity": activity, "recipe": name, "problem": problem, **found}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield a result as text."""
    is_good = not result["mistakes"] and not result["problem"] and result["operations"]
    verdict = "ok" if is_good else "FAILED"
    yield f"{result['activity']}, {result['recipe']}: {result['operations']} operations, {verdict}"
    if result["problem"]:
        yield f"  {result['problem']}"
    for kind in ("mistakes", "waits"):
        yield from (f"  {kind}: {place} ({times} times)" for place, times in result[kind].items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ACTIVITIES), default=list(ACTIVITIES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if torch.version.cuda is None:
        parser.error("this torch is a CPU build, which has no CUDA tensors; see the top of this file")
    with_driver()
    device = torch.device("cuda", 0)
    results = []
    for activity in arguments.only:
        for name, recipe in recipes().items() if activity != "score" else [("any", recipes()["mnist32"])]:
            results.append(check(device, activity, name, recipe))
            if not arguments.json:
                print(*lines(results[-1]), sep="\n", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=1))
    return 1 if any(result["mistakes"] or result["problem"] or not result["operations"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
