"""The side of `peer.py` that runs the PyPI package `hdit`, as its own authors' trainer would: see there.

The package has the network, the noise levels and the averaging; the loss and the optimizer around them are those of
k-diffusion's trainer, from which it was extracted.
"""

import copy
import os
import sys
import types

import torch
from safetensors.torch import load_file, save_file

BATCH, SIZE, SIGMA_DATA = 4, 128, 0.5


def prepare_imports():
    """Make `import hdit` work: with torchvision's two operators where it lacks them, and our operator as NATTEN's."""
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    natten, functional = types.ModuleType("natten"), types.ModuleType("natten.functional")
    natten.functional, natten.has_fused_na, functional.na2d = functional, lambda: True, our_operator
    sys.modules |= {"natten": natten, "natten.functional": functional}
    return operators


def our_operator(q, k, v, kernel_size, scale):
    """Attend as NATTEN would, by the operator that our own side runs."""
    from hdit_core.model.attention.neighborhood import neighborhood_attention

    assert scale == 1.0
    return neighborhood_attention(q, k, v, kernel_size)


class Side:
    """The network, its optimizer and its average."""

    def __init__(self, folder, attention, compiled):
        # read when the package is imported: its small kernels through torch.compile, or all of it eager
        os.environ["K_DIFFUSION_USE_COMPILE"] = "1" if compiled else "0"
        self._operators = prepare_imports()
        from hdit.modules import things

        self.things = things
        self.inputs = load_file(f"{folder}/inputs.safetensors")
        self.model = build(things, attention)
        self.model.load_state_dict(load_file(f"{folder}/theirs.safetensors"))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(groups(self.model), betas=(0.9, 0.95), eps=1e-8)

    def num_parameters(self):
        return sum(parameter.numel() for parameter in self.model.parameters())

    def network(self, x, sigma, model=None):
        """Return the network's raw answer; x is scaled already, and nothing was augmented."""
        return (model or self.model)(x, sigma.log() / 4, x.new_zeros(len(x), 9))

    def write_output(self, file):
        with torch.inference_mode():
            save_file({"output": self.network(self.inputs["x"], self.inputs["sigma"]).contiguous()}, file)

    def sample(self):
        """Evaluate the denoiser once, as a sampler does."""
        x, sigma = self.inputs["x"], self.inputs["sigma"]
        with torch.inference_mode():
            level = sigma[:, None, None, None]
            total = level**2 + SIGMA_DATA**2
            answer = self.network(x / total.sqrt(), sigma, self.average)
            return SIGMA_DATA**2 / total * x + level * SIGMA_DATA / total.sqrt() * answer

    def backward(self):
        """Run forward and backward of the loss: soft-min-SNR weighted, noise levels interpolated-cosine."""
        images, noise = self.inputs["images"], self.inputs["noise"]
        draw = self.things.rand_cosine_interpolated
        sigma = draw((BATCH,), SIZE, 32, SIZE, SIGMA_DATA)
        level = sigma[:, None, None, None]
        total = level**2 + SIGMA_DATA**2
        x = images + noise * level
        target = (images - SIGMA_DATA**2 / total * x) / (level * SIGMA_DATA / total.sqrt())
        error = (self.network(x / total.sqrt(), sigma) - target) ** 2
        weight = (sigma * SIGMA_DATA) ** 2 / (sigma**2 + SIGMA_DATA**2) ** 2
        (error.flatten(1).mean(1) * weight).mean().backward()

    def train(self):
        """Take one training step."""
        self.optimizer.zero_grad()
        self.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.things.ema_update(self.model, self.average, 0.999)


def build(things, attention):
    """Return the network: one outer level of 2 + 2 layers of width 128, and 4 of width 256 with global attention."""
    from hdit import HourglassDiffusionTransformer
    from hdit.modules.models.hourglass_diffusion_transformer.layers import FourierFeatures

    def window(context):
        width, shift = context.width, 4 if context.block_index % 2 else 0
        return things.SelectiveShiftedWindowTransformerLayer(width, 3 * width, 64, context.mapping_width, 8, shift)

    def neighborhood(context):
        width = context.width
        return things.SelectiveNeighborhoodTransformerLayer(width, 3 * width, 64, context.mapping_width, 7)

    def everywhere(context):
        width = context.width
        return things.SelectiveGlobalTransformerLayer(width, 3 * width, 64, context.mapping_width)

    import numpy

    local = {"shifted-window": window, "neighborhood": neighborhood}[attention]
    return HourglassDiffusionTransformer(
        in_channels=3,
        out_channels=3,
        patch_size=[4, 4],
        widths=numpy.array([128]),  # a list of one would make its inner width a float
        middle_width=256,
        depths=[2],
        middle_depth=4,
        block_builders={0: local, 1: everywhere, 2: local},
        mapping_width=256,
        mapping_depth=2,
        guidance_modules=[FourierFeatures(9, 256)],  # what was done to the image: the package lets one add it
    )


def groups(model):
    """Return k-diffusion's parameter groups, by the tags that the package puts on its parameters."""
    lr, decay = 5e-4, 1e-2
    sorts = {(mapping, wd): [] for mapping in (False, True) for wd in (False, True)}
    for parameter in model.parameters():
        tags = getattr(parameter, "_tags", set())
        sorts["mapping" in tags, "wd" in tags].append(parameter)
    return [
        {"params": parameters, "lr": lr / 3 if mapping else lr, "weight_decay": decay if wd else 0.0}
        for (mapping, wd), parameters in sorts.items()
        if parameters
    ]
