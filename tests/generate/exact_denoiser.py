"""Denoisers whose answers are known: of Gaussian images, in the place of a network."""

import math

from einops import rearrange
from torch import nn

from hdit_core.diffusion.precondition import Denoiser


class GaussianDenoiser(Denoiser):
    """E[clean | noisy] where pixels are independent, normal around a mean; another mean for each class."""

    def __init__(self, recipe, mean=0.1, std=0.4):
        super().__init__(nn.Linear(1, 1), recipe)
        self.mean, self.std = mean, std
        self.asked = []

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        self.asked.append(None if class_ids is None else class_ids.tolist())
        level = rearrange(sigma.to(x) ** 2, "b -> b 1 1 1")
        means = self.mean if class_ids is None else self.mean * rearrange(class_ids.to(x), "b -> b 1 1 1")
        return (self.std**2 * x + level * means) / (self.std**2 + level)

    def bits_per_dim_u8(self, x, sigma_min, mean):
        """The closed form for images [B, C, H, W] in [-1, 1], of the density with noise of level sigma_min."""
        variance = self.std**2 + sigma_min**2
        nats = ((x.double() - mean) ** 2 / (2 * variance)).flatten(1).mean(1) + 0.5 * math.log(2 * math.pi * variance)
        return nats / math.log(2) + math.log2(127.5)


class CorrelatedDenoiser(Denoiser):
    """The same of pixels that belong together: all pairs have one correlation."""

    def __init__(self, recipe, std=0.5, correlation=0.9):
        super().__init__(nn.Linear(1, 1), recipe)
        self.std, self.correlation = std, correlation

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        dims, level = x[0].numel(), rearrange(sigma.to(x) ** 2, "b -> b 1 1 1")
        shared, own = self.std**2 * self.correlation, self.std**2 * (1 - self.correlation)
        mean = x.mean((1, 2, 3), keepdim=True)
        along = own + dims * shared  # variance of the direction in which all pixels agree, of the others: own
        return own / (own + level) * (x - mean) + along / (along + level) * mean
