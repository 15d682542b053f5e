"""The side of `peer.py` that runs the PyPI package `hdit` with the settings of its authors' trainer.

The package provides the network, the noise-level density and the EMA update. Loss and optimizer are those of
k-diffusion's trainer.
"""

import copy
import os
import subprocess
import sys
import types

import torch
from safetensors.torch import load_file, save_file

BATCH, SIZE, SIGMA_DATA = 4, 128, 0.5


def prepare_imports():
    """Make `import hdit` work: declare torchvision's operators if it cannot load its own, and replace NATTEN's."""
    operators = None
    # In a child process, since declaring operators that did load a second time would abort this one.
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    natten, functional = types.ModuleType("natten"), types.ModuleType("natten.functional")
    natten.functional, natten.has_fused_na, functional.na2d = functional, lambda: True, neighborhood_operator
    sys.modules |= {"natten": natten, "natten.functional": functional}
    return operators


def neighborhood_operator(q, k, v, kernel_size, scale):
    """Return neighborhood attention by this project's operator, with NATTEN's signature."""
    from hdit_core.model.attention.neighborhood import neighborhood_attention

    assert scale == 1.0
    return neighborhood_attention(q, k, v, kernel_size)


class Side:
    """The network, its optimizer and its EMA."""

    def __init__(self, folder, attention, compiled):
        # read on import of the package: compile its kernels with torch.compile, or run eagerly
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
        """Return the network's raw output for scaled x, without augmentation."""
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
            output = self.network(x / total.sqrt(), sigma, self.average)
            return SIGMA_DATA**2 / total * x + level * SIGMA_DATA / total.sqrt() * output

    def backward(self):
        """Run forward and backward of the soft-min-SNR loss, with the interpolated cosine density."""
        images, noise = self.inputs["images"], self.inputs["noise"]
        sample_sigma = self.things.rand_cosine_interpolated
        sigma = sample_sigma((BATCH,), SIZE, 32, SIZE, SIGMA_DATA)
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
    """Return the network: an outer level of 2 + 2 layers of width 128, and 4 global layers of width 256."""
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
        widths=numpy.array([128]),  # a list of length one would make its inner width a float
        middle_width=256,
        depths=[2],
        middle_depth=4,
        block_builders={0: local, 1: everywhere, 2: local},
        mapping_width=256,
        mapping_depth=2,
        guidance_modules=[FourierFeatures(9, 256)],  # augmentation conditioning, optional in the package
    )


def groups(model):
    """Return k-diffusion's parameter groups, from the tags that the package sets on its parameters."""
    lr, decay = 5e-4, 1e-2
    grouped = {(mapping, wd): [] for mapping in (False, True) for wd in (False, True)}
    for parameter in model.parameters():
        tags = getattr(parameter, "_tags", set())
        grouped["mapping" in tags, "wd" in tags].append(parameter)
    return [
        {"params": parameters, "lr": lr / 3 if mapping else lr, "weight_decay": decay if wd else 0.0}
        for (mapping, wd), parameters in grouped.items()
        if parameters
    ]
