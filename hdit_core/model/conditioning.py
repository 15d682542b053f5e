"""The conditioning vector, from noise level, augmentation, class and an extra vector."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from hdit_core.devices import at_least_float32
from hdit_core.model.geglu import ACTIVATIONS, Activation
from hdit_core.model.linear import Linear, constant, nan_init, standard_normal
from hdit_core.model.norm import RMSNorm
from hdit_core.model.rotary_embedding import FixedTensor
from hdit_core.recipe.model import ModelRecipe

AUGMENT_FEATURES = 9


class FourierFeatures(FixedTensor):
    """`[cos(2 pi W z), sin(2 pi W z)]`; W is random, fixed, and saved in checkpoints."""

    frequencies: Tensor

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", nan_init(features_out // 2, features_in))
        self.initial = {"frequencies": standard_normal}

    def forward(self, z: Float[Tensor, "B E"]) -> Float[Tensor, "B M"]:
        """Return the features of z."""
        # a sum instead of a matrix product, whose angles autocast would round to 16 bits
        z = rearrange(z.to(at_least_float32(self.frequencies.dtype)), "b e -> b 1 e")
        angles = (z * self.frequencies).sum(-1) * (2 * math.pi)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class MappingBlock(nn.Module):
    """A feed-forward block on the conditioning vector, with the activation of the levels."""

    def __init__(self, width: int, hidden: int, unit: tuple[Activation, int], dropout: float) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.unit, inputs_per_output = unit
        self.up = Linear(width, inputs_per_output * hidden)
        self.dropout = nn.Dropout(dropout)
        self.down = Linear(hidden, width, constant(0.0))

    def forward(self, x: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """Return x after the block."""
        return x + self.down(self.dropout(self.unit(self.up(self.norm(x)))))


class MappingNetwork(nn.Module):
    """Blocks between two norms."""

    def __init__(self, width: int, depth: int, hidden: int, unit: tuple[Activation, int], dropout: float) -> None:
        super().__init__()
        self.in_norm = RMSNorm(width)
        self.blocks = nn.ModuleList(MappingBlock(width, hidden, unit, dropout) for _ in range(depth))
        self.out_norm = RMSNorm(width)

    def forward(self, x: Float[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """Return the mapped vector."""
        x = self.in_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.out_norm(x)


class ClassTable(nn.Module):
    """One learned vector per class, and a last one for "no class"."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nan_init(num_classes + 1, width))
        self.initial = {"weight": standard_normal}

    def forward(self, class_ids: Int64[Tensor, " B"]) -> Float[Tensor, "B M"]:
        """Return the vector of each class."""
        return F.embedding(class_ids, self.weight)


class Conditioning(nn.Module):
    """The sum of all embeddings, mapped."""

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        width = recipe.mapping_width
        self.time_input = recipe.time
        self.time_features = FourierFeatures(1, width)
        self.time_in = Linear(width, width)
        self.augment_features = FourierFeatures(AUGMENT_FEATURES, width)
        self.augment_in = Linear(width, width)
        self.classes = ClassTable(recipe.num_classes, width) if recipe.num_classes else None
        self.vector_in = Linear(recipe.mapping_cond_dim, width) if recipe.mapping_cond_dim else None
        unit = ACTIVATIONS[recipe.feed_forward]
        self.mapping = MappingNetwork(width, recipe.mapping_depth, recipe.mapping_hidden, unit, recipe.mapping_dropout)

    def forward(
        self,
        sigma: Float[Tensor, " B"],
        class_ids: Int64[Tensor, " B"] | None,
        augment_cond: Float[Tensor, "B 9"] | None,
        mapping_cond: Float[Tensor, "B E"] | None,
    ) -> Float[Tensor, "B M"]:
        """Return the conditioning vector of each image; see `HourglassTransformer.forward`."""
        dtype = self.time_in.weight.dtype

        # the noise level, as ln(sigma) / 4 or as the time of a rectified flow
        noise_level = sigma.log() / 4 if self.time_input == "log-sigma" else 1 / (1 + sigma)
        time = self.time_features(rearrange(noise_level, "b -> b 1"))
        cond = self.time_in(time.to(dtype))

        # without augmentation the embedding is not zero: the cosines of 0 are 1
        if augment_cond is None:
            augment_cond = sigma.new_zeros(len(sigma), AUGMENT_FEATURES)
        cond = cond + self.augment_in(self.augment_features(augment_cond).to(dtype))

        if self.classes is not None:
            cond = cond + self.classes(_required("class_ids", class_ids))
        elif class_ids is not None:
            raise ValueError("class_ids: expected None, since the network has no classes; found a tensor")

        if self.vector_in is not None:
            cond = cond + self.vector_in(self._checked(_required("mapping_cond", mapping_cond)).to(dtype))
        elif mapping_cond is not None:
            raise ValueError("mapping_cond: expected None, since the network's mapping_cond_dim is 0; found a tensor")
        return self.mapping(cond)

    def _checked(self, vector: Tensor) -> Tensor:
        assert self.vector_in is not None
        if vector.shape[-1] != (length := self.vector_in.weight.shape[1]):
            raise ValueError(f"mapping_cond: expected {length} numbers per image, found {vector.shape[-1]}")
        return vector


def _required(name: str, value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError(f"the network is conditioned on {name}; expected a tensor, found None")
    return value
