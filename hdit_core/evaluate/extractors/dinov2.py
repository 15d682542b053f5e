"""DINOv2 (Oquab et al. 2023), the feature space whose distances agree best with human judgment (Stein et al. 2023).

Its distances are FD-DINOv2 and KD-DINOv2: features are the class token after the last norm, of images at 224 pixels.
The network is Hugging Face's, of transformers 4 or 5. Its weights are passed by path, as safetensors or as torch hub's
file, with Hugging Face's parameter names or Meta's.
"""

import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.checkpoint.safetensors_file import Tensors, read_tensors
from hdit_core.errors import CheckpointError, UsageError, first_line
from hdit_core.evaluate.extractors.extractor import Extractor, Mode, refuse_adm
from hdit_core.files import digest

NAME = "dinov2"
SIDE_PX = 224
HEAD_DIM = 64
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 4, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixel values in [0, 1]

# Meta adds this to the target size when it resizes the position embeddings; all published features include it.
META_OFFSET = 0.1

# Meta's names -> Hugging Face's; Meta has query, key and value in one tensor.
_PARTS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_BLOCK_PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# Names in the modules of transformers 5 -> names in Hugging Face's files and in the modules of transformers 4.
_VERSION_5 = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}


def open_dinov2(weights: Path | None, device: torch.device, mode: Mode = "clean") -> Extractor:
    """Return the extractor of FD-DINOv2.

    Raises:
        UsageError: no weights are passed, the file does not exist, or transformers cannot be imported.
        CheckpointError: the file is not a DINOv2.
    """
    refuse_adm(NAME, mode)
    if weights is None or not weights.is_file():
        what = "no weights" if weights is None else f"{weights}: no such file"
        raise UsageError(
            f"--extractor {NAME}: {what}; pass DINOv2's file (safetensors, or torch hub's) by --extractor-weights"
        )
    state = _with_resized_positions(_read(weights))
    network = _build(weights, state).to(device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))

    def features(levels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        tokens: Tensor = network((levels / 255 - mean) / std).last_hidden_state
        return tokens[:, 0]

    return Extractor(
        name=NAME,
        metric=f"fd-{NAME}",
        kernel_metric=f"kd-{NAME}",
        num_features=state["embeddings.cls_token"].shape[-1],
        side_px=SIDE_PX,
        batch_size=CPU_BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE,
        weights_sha256=digest(weights).sha256,
        network=features,
        device=device,
    )


def _read(path: Path) -> Tensors:
    """Return the tensors of a file, under the names of Hugging Face's files."""
    if path.suffix == ".safetensors":
        content: Any = read_tensors(path)[0]
    else:
        try:
            # A pickle; weights_only admits tensors and calls nothing.
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, KeyError) as problem:
            reason = next(iter(str(problem).splitlines()), type(problem).__name__)
            raise CheckpointError(f"{path}: cannot be read as weights only ({reason})") from None
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path}: is not a table of tensors; expected the weights of a DINOv2")
    state = {name.removeprefix("dinov2."): tensor.float() for name, tensor in content.items()}
    state = _from_meta(state) if "cls_token" in state else {_file_name(name): state[name] for name in state}
    _check(path, state)
    return state


def _check(path: Path, state: Tensors) -> None:
    """Refuse everything but ViT-S, B and L of DINOv2 without registers."""
    shapes = {name: state[name].ndim for name in state}
    expected = {_PARTS["cls_token"]: 3, _PARTS["pos_embed"]: 3, f"{_PARTS['patch_embed.proj']}.weight": 4}
    if any(shapes.get(name) != ndim for name, ndim in expected.items()):
        raise CheckpointError(f"{path}: lacks {', '.join(expected)}; expected the weights of a DINOv2")
    if any("register_tokens" in name or "weights_in" in name or "w12" in name for name in state):
        raise CheckpointError(f"{path}: a DINOv2 with registers, or its giant; expected ViT-S/14, B/14 or L/14")
    count, patch_px = state[_PARTS["pos_embed"]].shape[1] - 1, state[f"{_PARTS['patch_embed.proj']}.weight"].shape[-1]
    if count < 1 or math.isqrt(count) ** 2 != count or not 0 < patch_px <= SIDE_PX:
        raise CheckpointError(
            f"{path}: has positions of {count} patches of {patch_px} pixels, which are no square; expected the weights "
            "of a DINOv2"
        )


def _from_meta(state: Mapping[str, Tensor]) -> Tensors:
    """Return Meta's tensors under Hugging Face's names."""
    renamed: Tensors = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"blocks\.(?:\d+\.)?(\d+)\.(.+)", name)
        if block is None:
            renamed[_rename(name, _PARTS)] = tensor
        elif block[2].startswith("attn.qkv."):
            kind = block[2].rpartition(".")[2]
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"encoder.layer.{block[1]}.attention.attention.{part}.{kind}"] = rows
        else:
            renamed[f"encoder.layer.{block[1]}.{_rename(block[2], _BLOCK_PARTS)}"] = tensor
    return renamed


def _file_name(name: str) -> str:
    """Return the name that a parameter of a module has in Hugging Face's files."""
    for module_part, file_part in _VERSION_5.items():
        name = name.replace(module_part, file_part)
    return name


def _rename(name: str, parts: Mapping[str, str]) -> str:
    stem, _, kind = name.rpartition(".")
    return parts.get(name) or (f"{parts[stem]}.{kind}" if stem in parts else name)


def _with_resized_positions(state: Tensors) -> Tensors:
    """Return the tensors with position embeddings for 224 pixels, resized as Meta does."""
    name = _PARTS["pos_embed"]
    patch_px = state[f"{_PARTS['patch_embed.proj']}.weight"].shape[-1]
    side, wanted = math.isqrt(state[name].shape[1] - 1), SIDE_PX // patch_px
    if side == wanted:
        return state
    grid = rearrange(state[name][:, 1:], "1 (h w) c -> 1 c h w", h=side)
    scale = (wanted + META_OFFSET) / side
    resized = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return {**state, name: torch.cat([state[name][:, :1], rearrange(resized, "1 c h w -> 1 (h w) c")], 1)}


def _build(path: Path, state: Tensors) -> nn.Module:
    """Return Hugging Face's network with these weights."""
    try:
        from transformers import Dinov2Config, Dinov2Model
    except ImportError as problem:  # missing, or incompatible with another package
        raise UsageError(
            f"--extractor {NAME}: transformers cannot be imported ({problem}); run: pip install 'hdit-toolkit[dinov2]'"
        ) from None
    width = state[_PARTS["cls_token"]].shape[-1]
    first = state.get("encoder.layer.0.mlp.fc1.weight")
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")}),
        num_attention_heads=max(1, width // HEAD_DIM),
        mlp_ratio=4 if first is None else first.shape[0] // width,
        patch_size=state[f"{_PARTS['patch_embed.proj']}.weight"].shape[-1],
        image_size=SIDE_PX,
    )
    try:
        with torch.device("meta"):
            network: nn.Module = Dinov2Model(config)
    except ValueError as problem:
        raise CheckpointError(f"{path}: not a DINOv2 ({first_line(problem)})") from None
    expected = {_file_name(name): tensor.shape for name, tensor in network.state_dict().items()}
    mask = _PARTS["mask_token"]
    state = {mask: torch.zeros(1, width), **state}  # timm omits it; no image is masked here
    if {name: tensor.shape for name, tensor in state.items()} != expected:
        odd = sorted(set(state) ^ set(expected)) or ["a shape"]
        raise CheckpointError(f"{path}: {odd[0]} does not fit a DINOv2 of width {width}")
    network.load_state_dict({name: state[_file_name(name)] for name in network.state_dict()}, assign=True)
    return network.eval().requires_grad_(False)
