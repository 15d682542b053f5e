"""Features with correlations, and their statistics, for tests of distances."""

import torch

from hdit_core.evaluate.metrics.statistics import Accumulator


def correlated(n, features, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=torch.Generator().manual_seed(99)) / features**0.5
    return torch.randn(n, features, generator=generator) @ mix + shift


def measured(features):
    accumulator = Accumulator(features.shape[1])
    accumulator.add(features, [int(i).to_bytes(32, "big") for i in range(len(features))])
    return accumulator.statistics()
