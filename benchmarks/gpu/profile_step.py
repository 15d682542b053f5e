"""Prints torch.profiler's table of a recipe's training step, and how often it waited for the device."""

import argparse
import warnings
from contextlib import closing

import torch
from torch.profiler import ProfilerActivity, profile

from hdit_core.bench.train import random_batches
from hdit_core.devices import synchronize
from hdit_core.distributed import World
from hdit_core.recipe.read import read_recipe
from hdit_core.train.step.batch_plan import endless_steps
from hdit_core.train.step.build import build_learner


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--recipe", default="ffhq1024")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = torch.empty(0, device=arguments.device).device
    on_gpu = device.type == "cuda"
    compiled = f"train.compile={str(arguments.compile).lower()}"
    recipe = read_recipe(arguments.recipe, [f"train.batch_size={arguments.batch_size}", compiled])
    learner = build_learner(recipe, None, World(device=device))
    plan = endless_steps(recipe.train)
    chunks = (chunk for step in endless_steps(recipe.train) for chunk in learner.micro_batches(step))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with closing(random_batches(recipe, chunks)) as batches:
        for _ in range(2):
            learner.train_step(next(plan), batches)
        synchronize(device)
        with profile(activities=activities) as profiler:
            for _ in range(arguments.steps):
                learner.train_step(next(plan), batches)
            synchronize(device)
        print(profiler.key_averages().table(sort_by="cuda_time_total" if on_gpu else "cpu_time_total", row_limit=30))
        if on_gpu:
            print(*synchronizations(learner, plan, batches), sep="\n")


def synchronizations(learner: object, plan: object, batches: object) -> list[str]:
    """Return where a step makes the CPU wait for the GPU, as torch warns of it."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.train_step(next(plan), batches)  # type: ignore[attr-defined, call-overload]
    torch.cuda.set_sync_debug_mode("default")
    return [f"synchronizes: {warning.filename}:{warning.lineno} {warning.message}" for warning in caught]


if __name__ == "__main__":
    main()
