"""The layers of a Hourglass Diffusion Transformer in plain PyTorch; tensors are [B, H, W, C].

No linear layer has a bias. Neighborhood attention works through the rows of the grid in blocks, so that its memory
stays bounded.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6
AUGMENT_FEATURES = 9
ROWS_AT_ONCE = 16  # of queries in neighborhood attention


def rms_normalize(x: Tensor) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps), computed in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)).to(x.dtype)


class RMSNorm(nn.Module):
    """RMS norm with a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalized."""
        return rms_normalize(x) * self.scale


class AdaRMSNorm(nn.Module):
    """RMS norm whose scale depends on the conditioning vector."""

    def __init__(self, width: int, mapping_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(mapping_width, width, bias=False)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return x, normalized and scaled by 1 + W cond."""
        return rms_normalize(x) * (self.modulation(cond)[:, None, None] + 1)


class GatedFeedForward(nn.Module):
    """A feed-forward block with GEGLU, residual included."""

    def __init__(self, norm: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = norm
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, *cond: Tensor) -> Tensor:
        """Return x after the block."""
        values, gates = self.up(self.norm(x, *cond)).chunk(2, dim=-1)
        return x + self.down(values * F.gelu(gates))


class FourierFeatures(nn.Module):
    """Cosines and sines of 2 pi W z with a fixed random W."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(features_out // 2, features_in))

    def forward(self, z: Tensor) -> Tensor:
        """Return the features of z, [B, features_out]."""
        angles = 2 * math.pi * (z[:, None] * self.frequencies).sum(-1)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Mapping(nn.Module):
    """Feed-forward blocks between two norms."""

    def __init__(self, width: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.in_norm = RMSNorm(width)
        self.blocks = nn.ModuleList(GatedFeedForward(RMSNorm(width), width, hidden) for _ in range(depth))
        self.out_norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped vector."""
        x = self.in_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.out_norm(x)


class Conditioning(nn.Module):
    """The conditioning vector, from noise level and class."""

    def __init__(self, width: int, depth: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.time_features = FourierFeatures(1, width)
        self.time_in = nn.Linear(width, width, bias=False)
        self.augment_features = FourierFeatures(AUGMENT_FEATURES, width)
        self.augment_in = nn.Linear(width, width, bias=False)
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.mapping = Mapping(width, depth, hidden)

    def forward(self, timestep: Tensor, class_labels: Tensor | None) -> Tensor:
        """Return the vector of each image; `timestep` is ln(sigma) / 4."""
        dtype = self.time_in.weight.dtype
        wide = timestep.to(self.time_features.frequencies.dtype)
        cond = self.time_in(self.time_features(wide[:, None]).to(dtype))
        nothing = wide.new_zeros(len(wide), AUGMENT_FEATURES)  # no augmentation, whose features are not zero
        cond = cond + self.augment_in(self.augment_features(nothing).to(dtype))
        if self.classes is not None:
            if class_labels is None:
                class_labels = torch.full_like(timestep, self.classes.num_embeddings - 1, dtype=torch.long)
            cond = cond + self.classes(class_labels)
        return self.mapping(cond)


class AxialRotary(nn.Module):
    """Angles of the axial rotary position embedding of a level."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(heads, head_dim // 8))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the angles [H, W, N, D / 4] at positions [H, W, 2]."""
        angles = positions.to(self.frequencies.dtype)[:, :, None, :, None] * self.frequencies[:, None]
        return angles.flatten(-2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the first half of the features, in pairs i and i + D / 4."""
    first, second, rest = x.split([angles.shape[-1], angles.shape[-1], x.shape[-1] - 2 * angles.shape[-1]], dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def global_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the attention of each token to all tokens; all tensors are [B, H, W, N, D]."""
    shape = q.shape
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).reshape(shape)


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Return the attention of each token to the window around it, which is shifted inwards at borders."""
    _, height, width, _, _ = q.shape

    def windows(size: int) -> Tensor:
        first = (torch.arange(size, device=q.device) - kernel_size // 2).clamp(0, size - kernel_size)
        return first[:, None] + torch.arange(kernel_size, device=q.device)

    rows, columns, attended = windows(height), windows(width), []
    for start in range(0, height, ROWS_AT_ONCE):
        index = rows[start : start + ROWS_AT_ONCE, :, None, None], columns
        keys, values = (x[:, index[0], index[1]] for x in (k, v))  # [B, rows, k, W, k, N, D]
        queries = q[:, start : start + ROWS_AT_ONCE]
        logits = torch.einsum("bywnd,bypwqnd->bywnpq", queries, keys)
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        attended.append(torch.einsum("bywnpq,bypwqnd->bywnd", weights, values))
    return torch.cat(attended, dim=1)


def window_attention(q: Tensor, k: Tensor, v: Tensor, window_size: int, shift: int) -> Tensor:
    """Return the attention of each token to its window, on a grid that is rolled by `shift`."""
    batch, height, width, heads, head_dim = q.shape
    grid = batch, height // window_size, window_size, width // window_size, window_size, heads, head_dim
    q, k, v = (torch.roll(x, (shift, shift), (1, 2)).reshape(grid).transpose(2, 3) for x in (q, k, v))
    q, k, v = (x.flatten(3, 4).transpose(3, 4) for x in (q, k, v))  # [B, rows, columns, N, tokens, D]
    mask = None
    if shift:  # tokens that wrapped around and others do not attend to each other
        wrapped = [torch.arange(size, device=q.device) < shift for size in (height, width)]
        region = (wrapped[0][:, None] * 2 + wrapped[1]).reshape(grid[1:5]).transpose(1, 2).flatten(2, 3)
        mask = (region[..., :, None] == region[..., None, :])[None, :, :, None]
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    attended = attended.transpose(3, 4).unflatten(3, (window_size, window_size)).transpose(2, 3)
    return torch.roll(attended.reshape(batch, height, width, heads, head_dim), (-shift, -shift), (1, 2))


class AttentionBlock(nn.Module):
    """Cosine-similarity attention, residual included."""

    def __init__(self, level: dict, mapping_width: int, layer: int) -> None:
        super().__init__()
        width, self.head_dim, self.level, self.layer = level["width"], level["head_dim"], level, layer
        self.norm = AdaRMSNorm(width, mapping_width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.scale = nn.Parameter(torch.full((width // self.head_dim,), 10.0))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cond: Tensor, angles: Tensor) -> Tensor:
        """Return x after the block."""
        qkv = self.qkv(self.norm(x, cond)).unflatten(-1, (3, -1, self.head_dim))
        q, k, v = qkv.unbind(3)
        q, k = (self._positioned(part, angles) for part in (q, k))
        return x + self.out(self._attend(q, k, v).flatten(3))

    def _positioned(self, x: Tensor, angles: Tensor) -> Tensor:
        """Return queries or keys of length sqrt(scale), rotated by their positions."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        factor = torch.rsqrt(wide.square().sum(-1, keepdim=True) + EPSILON) * self.scale.to(wide.dtype).sqrt()[:, None]
        return rotate(wide * factor, angles.to(wide.dtype)).to(x.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.level["attention"] == "neighborhood":
            return neighborhood_attention(q, k, v, self.level["kernel_size"])
        if self.level["attention"] == "shifted-window":
            size = self.level["window_size"]
            return window_attention(q, k, v, size, size // 2 if self.layer % 2 else 0)
        return global_attention(q, k, v)


class Layer(nn.Module):
    """Attention, if the level has it, and feed-forward."""

    def __init__(self, level: dict, mapping_width: int, layer: int) -> None:
        super().__init__()
        has_attention = level["attention"] != "none"
        self.attention = AttentionBlock(level, mapping_width, layer) if has_attention else None
        norm = AdaRMSNorm(level["width"], mapping_width)
        self.feed_forward = GatedFeedForward(norm, level["width"], level["hidden"])

    def forward(self, x: Tensor, cond: Tensor, angles: Tensor | None) -> Tensor:
        """Return x after both blocks."""
        if self.attention is not None:
            x = self.attention(x, cond, angles)
        return self.feed_forward(x, cond)


class Merge(nn.Module):
    """Merges blocks of p x q cells into tokens."""

    def __init__(self, width_in: int, width_out: int, block: tuple[int, int]) -> None:
        super().__init__()
        self.block = block
        self.proj = nn.Linear(width_in * block[0] * block[1], width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens."""
        p, q = self.block
        cells = x.unflatten(2, (-1, q)).unflatten(1, (-1, p))  # [B, H / p, p, W / q, q, C]
        return self.proj(cells.transpose(2, 3).flatten(3))


class Split(nn.Module):
    """Splits tokens into p x q cells; with a skip connection, interpolates with it."""

    def __init__(self, width_in: int, width_out: int, block: tuple[int, int], has_skip: bool) -> None:
        super().__init__()
        self.block, self.width_out = block, width_out
        self.proj = nn.Linear(width_in, width_out * block[0] * block[1], bias=False)
        if has_skip:
            self.mix = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return the cells, interpolated with the skip connection if there is one."""
        cells = self.proj(x).unflatten(-1, (*self.block, self.width_out)).transpose(2, 3)
        cells = cells.flatten(3, 4).flatten(1, 2)
        return cells if skip is None else torch.lerp(skip, cells, self.mix.to(cells.dtype))
