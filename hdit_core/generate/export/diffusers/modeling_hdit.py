"""The Hourglass Diffusion Transformer (Crowson et al. 2024, arXiv 2401.11605) as a model of the diffusers library.

This folder needs torch and diffusers only. It computes what hdit computes; for training and for speed, use hdit.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from .hdit_layers import AxialRotary, Conditioning, Layer, Merge, RMSNorm, Split


class HDiTModel(ModelMixin, ConfigMixin):
    """The network F of the preconditioned denoiser D = c_skip x + c_out F(c_in x, ln(sigma) / 4, class).

    Schedulers of diffusers that begin with EDM scale inputs and outputs. Each level is a dict with `depth`, `width`,
    `hidden`, `head_dim`, `attention`, `kernel_size` and `window_size`, outermost first.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: tuple[int, int],
        channels: int,
        patch_size: tuple[int, int],
        levels: list[dict],
        num_classes: int = 0,
        mapping_width: int = 256,
        mapping_depth: int = 2,
        mapping_hidden: int = 768,
    ) -> None:
        super().__init__()
        *outer, inner = levels
        widths = [level["width"] for level in levels]
        self.conditioning = Conditioning(mapping_width, mapping_depth, mapping_hidden, num_classes)
        self.rotary = nn.ModuleDict()
        for i, level in enumerate(levels):
            if level["attention"] != "none":
                self.rotary[str(i)] = AxialRotary(level["width"] // level["head_dim"], level["head_dim"])

        def layers(level: dict, first: int) -> nn.ModuleList:
            return nn.ModuleList(Layer(level, mapping_width, first + i) for i in range(level["depth"]))

        self.patch_in = Merge(channels, widths[0], tuple(patch_size))
        self.down = nn.ModuleList(layers(level, 0) for level in outer)
        self.merges = nn.ModuleList(Merge(widths[i], widths[i + 1], (2, 2)) for i in range(len(outer)))
        self.middle = layers(inner, 0)
        self.splits = nn.ModuleList(Split(widths[i + 1], widths[i], (2, 2), True) for i in range(len(outer)))
        self.up = nn.ModuleList(layers(level, level["depth"]) for level in outer)
        self.out_norm = RMSNorm(widths[0])
        self.patch_out = Split(widths[0], channels, tuple(patch_size), False)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Return F.

        Args:
            sample: [B, C, H, W], already scaled by c_in.
            timestep: ln(sigma) / 4, of all images or of each.
            class_labels: class of each image, `num_classes` for none; None: none.
            return_dict: whether to return an object instead of a tuple.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        cond = self.conditioning(timestep, class_labels)
        tokens = self.patch_in(sample.to(self.dtype).permute(0, 2, 3, 1))
        angles = self._angles(tokens.shape[1], tokens.shape[2])
        skips = []
        for i, merge in enumerate(self.merges):
            tokens = self._run(self.down[i], tokens, cond, angles[i])
            skips.append(tokens)
            tokens = merge(tokens)
        tokens = self._run(self.middle, tokens, cond, angles[-1])
        for i in reversed(range(len(self.splits))):
            tokens = self._run(self.up[i], self.splits[i](tokens, skips[i]), cond, angles[i])
        output = self.patch_out(self.out_norm(tokens)).permute(0, 3, 1, 2).to(sample.dtype)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    @staticmethod
    def _run(layers: nn.ModuleList, tokens: Tensor, cond: Tensor, angles: Tensor | None) -> Tensor:
        for layer in layers:
            tokens = layer(tokens, cond, angles)
        return tokens

    def _angles(self, rows: int, columns: int) -> list[Tensor | None]:
        """Return the angles of each level; the longer side of the grid spans [-1, 1]."""
        centers = []
        for cells in (rows, columns):
            edge = cells / max(rows, columns)
            edges = torch.linspace(-edge, edge, cells + 1, device=self.device)
            centers.append((edges[:-1] + edges[1:]) / 2)
        positions = torch.stack(torch.meshgrid(*centers, indexing="ij"), dim=-1)
        angles = []
        for i in range(len(self.config.levels)):
            if i:
                positions = positions.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).mean((1, 3))  # of merged tokens
            angles.append(self.rotary[str(i)](positions) if str(i) in self.rotary else None)
        return angles
