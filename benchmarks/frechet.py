"""Benchmark the Frechet distance at 2048 features against scipy.linalg.sqrtm, which clean-fid and pytorch-fid use.

    python benchmarks/frechet.py [--threads 1] [--rounds 1]

Both compute the distance between the same two sets of 5,000 feature vectors, in the same run. Prints the medians, their
ratio, and the relative difference of the two results.
"""

import argparse
import json
import statistics
import time

import numpy as np
import scipy.linalg
import torch

from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.statistics import Statistics

NUM_FEATURES, NUM_IMAGES = 2048, 5000


def correlated(seed: int, shift: float) -> Statistics:
    """Return statistics of features whose spectrum spans three decades, as that of Inception features does."""
    mix = torch.randn(NUM_FEATURES, NUM_FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    mix *= torch.logspace(0, -3, NUM_FEATURES, dtype=torch.float64) / NUM_FEATURES**0.5
    normal = torch.randn(NUM_IMAGES, NUM_FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    features = normal @ mix + shift
    no_subset = torch.empty(0, NUM_FEATURES), torch.empty(0, dtype=torch.int64)
    return Statistics(NUM_IMAGES, features.mean(0), torch.cov(features.T), *no_subset, "")


def by_sqrtm(a: Statistics, b: Statistics) -> float:
    """Return the distance through the square root of the covariances' product, as clean-fid and pytorch-fid do."""
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    traces = float(a.covariance.trace() + b.covariance.trace()) - 2 * np.trace(root).real
    return float((a.mean - b.mean).square().sum()) + traces


def main() -> None:
    """Parse the command line, run the benchmark, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    a, b = correlated(1, 0.0), correlated(2, 0.01)
    target = FrechetTarget(b)
    methods = {
        "hdit": lambda: FrechetTarget(b).distance(a).value,
        "hdit, one of many against a reference": lambda: target.quick_distance(a),
        "scipy.linalg.sqrtm": lambda: by_sqrtm(a, b),
    }
    elapsed_s: dict[str, list[float]] = {name: [] for name in methods}
    values = {}
    for _ in range(options.rounds):
        for name, method in methods.items():
            started_at = time.perf_counter()
            values[name] = method()
            elapsed_s[name].append(time.perf_counter() - started_at)

    medians = {name: statistics.median(times) for name, times in elapsed_s.items()}
    exact, _, scipy_value = values.values()
    result = {
        "features": NUM_FEATURES,
        "threads": options.threads,
        "median_s": medians,
        "values": values,
        "relative_difference": abs(exact - scipy_value) / scipy_value,
        "times_faster": medians["scipy.linalg.sqrtm"] / medians["hdit"],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
