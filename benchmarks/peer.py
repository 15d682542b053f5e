"""Benchmark a training and a sampling step against the PyPI package `hdit`, which contains the reference network.

Each side runs in its own process and environment, and only one is active at a time. Both start from the same weights
and must produce the same output. Rounds alternate between the sides, and medians over the rounds are compared. The work
is 4 images of 128x128, patch size 4, widths 128 and 256, depths 2 and 4, float32. The outer level uses shifted-window
attention, which both implement, or neighborhood attention, for which the package needs NATTEN and uses this project's
operator.

    python benchmarks/peer.py --python peer/bin/python --threads 2

To create the package's environment in a checkout (`constraints.txt` pins the tested versions):

    python3 -m venv peer
    export PIP_CONSTRAINT=$PWD/constraints.txt
    peer/bin/python -m pip install torch numpy einops scipy torchdiffeq torchsde tqdm pillow safetensors setuptools
    peer/bin/python -m pip install --no-deps hdit==0.0.1b6 torchvision dctorch
    peer/bin/python -m pip install jaxtyping pydantic     # for `--attention neighborhood`

`--no-deps` is needed because its requirements are wrong: it requires `einop` but imports `einops`, and `dctorch`
requires a numpy version that is too old. Compiling its kernels with torch.compile takes a minute or two on first use.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peer_ours import BATCH, SIZE, recipe
from safetensors.torch import load_file, save_file

from hdit_cli.console import align
from hdit_core.bench.machine import this_machine
from hdit_core.bench.timing import Rounds, Timing, interleaved
from hdit_core.checkpoint.kdiffusion.state_dict import state_to_kdiffusion
from hdit_core.model.hourglass import HourglassTransformer, initialize

HERE = Path(__file__).parent
TOLERANCE = 1e-5
STEPS = ("train", "sample")
PACKAGE_NAMES = {  # tensors of k-diffusion that the package renamed
    "time_emb.": "time_embedding.",
    "time_in_proj.": "time_projection.",
    "aug_emb.": "guidance_modules.0.",
    "aug_in_proj.": "guidance_modules_projections.0.",
    "mid_level.": "middle_level.",
}


class Worker:
    """A process that runs one side and sleeps between requests."""

    def __init__(self, python, module, folder, threads, attention, *flags):
        command = [python, str(HERE / "peer_worker.py"), module, str(folder), str(threads), attention, *flags]
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, **request):
        """Send a request and return its response."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"peer.py: {' '.join(map(str, self.process.args))} ended with code {self.process.wait()}")
        return json.loads(line)

    def task(self, step):
        """Return a function that runs one step of this side and returns its duration."""
        return lambda: self.ask(do=step, times=1)["seconds"][0]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # torch's compile workers may keep it alive
            self.process.kill()
            self.process.wait()


def write_inputs(folder, attention):
    """Write the weights under both naming schemes, and the inputs; replace zero tensors, which would hide errors."""
    network = HourglassTransformer(recipe(attention).model)
    initialize(network, seed=0)
    numbers = torch.Generator().manual_seed(0)
    state = {
        name: tensor if tensor.any() else 0.02 * torch.randn(tensor.shape, generator=numbers)
        for name, tensor in network.state_dict().items()
    }
    save_file(state, folder / "ours.safetensors")
    theirs = {_package_name(name): tensor for name, tensor in state_to_kdiffusion(state, recipe(attention)).items()}
    save_file(theirs, folder / "theirs.safetensors")
    images = {name: torch.randn(BATCH, 3, SIZE, SIZE, generator=numbers) for name in ("x", "images", "noise")}
    save_file(images | {"sigma": torch.tensor([0.02, 0.3, 2.0, 50.0])}, folder / "inputs.safetensors")


def _package_name(name):
    for old, new in PACKAGE_NAMES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name.replace(".norm.linear.", ".norm.scale.")


def largest_differences(workers, folder):
    """Return the largest deviation of each side's output from this project's, relative to its largest value."""
    outputs = {}
    for index, (name, worker) in enumerate(workers.items()):
        file = folder / f"output{index}.safetensors"
        worker.ask(do="output", file=str(file))
        outputs[name] = load_file(file)["output"]
    first = next(iter(outputs.values()))
    return {name: ((output - first).abs().max() / first.abs().max()).item() for name, output in outputs.items()}


def measure(sides, arguments, folder, threads):
    """Return the results for this number of threads."""
    write_inputs(folder, arguments.attention)
    workers = {}
    try:
        for name, (python, module, *flags) in sides.items():
            workers[name] = Worker(python, module, folder, threads, arguments.attention, *flags)
        facts = {name: worker.ask(do="facts") for name, worker in workers.items()}
        differences = largest_differences(workers, folder)
        check_same_work(facts, differences)
        timings = {
            step: interleaved(
                {name: worker.task(step) for name, worker in workers.items()},
                Rounds(warm_up=2, most=arguments.rounds, limit_s=arguments.seconds),
                on_round=lambda done, step=step: print(f"{step}: round {done}", file=sys.stderr),
            )
            for step in STEPS
        }
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "threads": threads,
        "attention": arguments.attention,
        "sides": {
            name: facts[name]
            | {"difference": differences[name]}
            | {step: timings[step][name].to_json() for step in STEPS}
            for name in sides
        },
        "ratio": {step: ratio(timings[step]) for step in STEPS},
    }


def check_same_work(facts, differences):
    """Exit if the sides do not compute the same function."""
    if len({fact["parameters"] for fact in facts.values()}) > 1:
        raise SystemExit(f"peer.py: the networks have different numbers of parameters: {facts}")
    if max(differences.values()) > TOLERANCE:
        raise SystemExit(f"peer.py: the networks' outputs differ by more than {TOLERANCE}: {differences}")


def ratio(timings: dict[str, Timing]) -> float:
    """Return the speed of this project's best variant relative to the package's best."""
    best = {
        side: min(timing.median_s for name, timing in timings.items() if name.startswith(side))
        for side in ("ours", "peer")
    }
    return best["peer"] / best["ours"]


def table(result):
    """Return the lines of a table of one result."""
    rows = [["side", "parameters", "difference", *(f"{step}, ms" for step in STEPS)]]
    for name, side in result["sides"].items():
        times = [
            f"{1e3 * side[step]['median_s']:.0f} "
            f"({1e3 * side[step]['first_quartile_s']:.0f} to {1e3 * side[step]['third_quartile_s']:.0f})"
            for step in STEPS
        ]
        rows.append([name, f"{side['parameters']:,}", f"{side['difference']:.1e}", *times])
    rows.append(["peer's best / ours", "", "", *(f"{result['ratio'][step]:.2f}" for step in STEPS)])
    return align(rows)


def main():
    """Parse the command line, run the benchmark, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of the environment with the package `hdit`")
    parser.add_argument("--threads", default="1,2", help="thread counts, comma-separated; default 1,2")
    parser.add_argument("--attention", choices=["shifted-window", "neighborhood"], default="shifted-window")
    parser.add_argument("--compile", action="store_true", help="also run ours with train.compile")
    parser.add_argument("--rounds", type=int, default=15, help="maximum number of rounds; default 15")
    parser.add_argument("--seconds", type=float, default=40.0, help="approximate time per kind of step; default 40")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    sides = {"ours": (sys.executable, "peer_ours")}
    if arguments.compile:
        sides["ours, compiled"] = (sys.executable, "peer_ours", "compile")
    sides |= {
        "peer, eager": (arguments.python, "peer_theirs"),
        "peer, its kernels compiled": (arguments.python, "peer_theirs", "compile"),
    }
    results = []
    for threads in map(int, arguments.threads.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(sides, arguments, Path(folder), threads))
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        machine = this_machine(torch.device("cpu"), result["threads"])
        print(f"{machine}\n{result['attention']}; medians (quartiles)", *table(result), sep="\n")


if __name__ == "__main__":
    main()
