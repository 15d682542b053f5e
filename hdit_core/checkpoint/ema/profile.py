"""EMA profiles: how much an average weights each moment of training. Power functions, and mixtures of them.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (2024), section 3.1 and appendix C.

Time t is counted in images. After t images, the EMA is proportional to tau^gamma for the weights after tau images: its
profile is p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]. Its length (sigma_rel) is the standard deviation of
p relative to t, here `std`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

SHORTEST, LONGEST = 0.001, 0.288
"""The range of EMA lengths; the mean of the whole run (gamma = 0) has 1/sqrt(12) = 0.2887."""


@dataclass(frozen=True)
class Profile:
    """The profile of one EMA.

    Attributes:
        std: its length, relative to `num_images`.
        num_images: the length of the run so far.
    """

    std: float
    num_images: int


@dataclass(frozen=True)
class Mixture:
    """A linear combination of profiles.

    Attributes:
        weights: the coefficients; they sum to 1.
        error: relative error of the combination, ||sum_i x_i p_i - p|| / ||p|| in L2.
        gain: root of the sum of the squared weights: amplification of independent errors of the parts.
    """

    weights: tuple[float, ...]
    error: float
    gain: float


def gamma_of(std: float) -> float:
    """Return the exponent of the profile with a length.

    The length is std = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))) (appendix C); with s = std^-2 that is the cubic
    gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s = 0, whose largest root it is.
    """
    s = std**-2
    return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def decay(gamma: float, before: int, after: int) -> float:
    """Return the EMA decay of a step: beta = (before / after)^(gamma + 1) (section 3.1).

    For steps of equal size this is the paper's (1 - 1/t)^(gamma + 1), t in steps. Counted in images it is exact for
    steps of any size: the EMA is the integral of p(tau) times the weights at tau, with the weights after a step used
    for all images of that step.

    Args:
        gamma: the profile's exponent.
        before: images before the step; if 0, the EMA becomes the weights.
        after: images after the step.
    """
    return (before / after) ** (gamma + 1)


def inner_products(first: Sequence[Profile], second: Sequence[Profile]) -> Float[np.ndarray, "N M"]:
    """Return the integral of p_a(tau) p_b(tau) for each pair (appendix C).

    For t_a <= t_b it is (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) * (t_a / t_b)^gamma_b / t_b.
    """
    gamma_a, t_a = (column[:, None] for column in _columns(first))
    gamma_b, t_b = (row[None, :] for row in _columns(second))
    of_the_later = np.where(t_a <= t_b, gamma_b, gamma_a)
    shorter, longer = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (shorter / longer) ** of_the_later / longer


def mixtures(parts: Sequence[Profile], wanted: Sequence[Profile]) -> list[Mixture]:
    """Return the best approximation of each target profile by a mixture of others.

    Least squares: x minimizes ||sum_i x_i p_i - p||^2 = x'Ax - 2 x'b + c with A_ij = <p_i, p_j>, b_i = <p_i, p> and
    c = <p, p>, subject to sum(x) = 1, so that the mixture is an average:
    x = A^-1 b + A^-1 1 (1 - 1'A^-1 b) / (1'A^-1 1). In float64, with every profile scaled to norm 1.

    Args:
        parts: the profiles to combine, at least one.
        wanted: the target profiles.
    """
    gram = inner_products(parts, parts)
    norms = np.sqrt(np.diag(gram))
    gram, ones = gram / np.outer(norms, norms), 1 / norms
    products = inner_products(parts, wanted) / norms[:, None]
    squares = [inner_products([profile], [profile]).item() for profile in wanted]
    solved = np.linalg.lstsq(gram, np.column_stack([ones, products]), rcond=1e-14)[0]
    flat, results = solved[:, 0], []
    for free, product, square in zip(solved[:, 1:].T, products.T, squares, strict=True):
        x = free + flat * (1 - ones @ free) / (ones @ flat)
        squared_error = (x @ gram @ x - 2 * x @ product) / square + 1
        weights = x / norms
        gain = float(np.linalg.norm(weights))
        results.append(Mixture(tuple(weights.tolist()), math.sqrt(max(squared_error, 0.0)), gain))
    return results


def _columns(profiles: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    gammas = np.array([gamma_of(profile.std) for profile in profiles])
    return gammas, np.array([profile.num_images for profile in profiles], np.float64)
