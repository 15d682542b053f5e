"""Sampling with a Hourglass Diffusion Transformer and a scheduler of the diffusers library that begins with EDM."""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class HDiTPipeline(DiffusionPipeline):
    """Generates images from noise, with classifier-free guidance for networks with classes."""

    def __init__(self, transformer, scheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int] | None = None,
        num_images: int = 1,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """Generate images.

        Args:
            class_labels: class of each image; None for networks without classes, or for no class.
            num_images: how many, where no classes are given.
            num_inference_steps: evaluations of the network, twice as many with guidance.
            guidance_scale: 1 disables guidance.
            generator: of the noise.
            latents: standard normal noise [B, C, H, W]; None: from the generator.
            output_type: `"pil"`, `"np"` ([B, H, W, C] in [0, 1]) or `"pt"` ([B, C, H, W] in [-1, 1], not clipped).
            return_dict: return an object instead of a tuple.
        """
        config = self.transformer.config
        _check_classes(config.num_classes, class_labels, guidance_scale)
        count = len(class_labels) if class_labels is not None else len(latents) if latents is not None else num_images
        shape, device = (count, config.channels, *config.sample_size), self._execution_device
        labels = None if class_labels is None else torch.tensor(class_labels, device=device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        noise = randn_tensor(shape, generator, device, torch.float32) if latents is None else latents.to(device)
        x = noise * self.scheduler.sigmas[0]
        for timestep in self.progress_bar(self.scheduler.timesteps):
            scaled = self.scheduler.scale_model_input(x, timestep)
            output = self.transformer(scaled, timestep, labels).sample
            if guidance_scale != 1:
                output = torch.lerp(self.transformer(scaled, timestep).sample, output, guidance_scale)
            x = self.scheduler.step(output, timestep, x, generator=generator).prev_sample
        return self._output(x, output_type, return_dict)

    def _output(self, x: torch.Tensor, output_type: str, return_dict: bool):
        images = x
        if output_type != "pt":
            images = (x.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _check_classes(num_classes: int, class_labels: list[int] | None, guidance_scale: float) -> None:
    if guidance_scale != 1 and not num_classes:
        raise ValueError(f"guidance_scale = {guidance_scale} needs classes, and this network has none; use 1")
    if class_labels is not None and not num_classes:
        raise ValueError(f"class_labels = {class_labels}: this network has no classes; leave them out")
    if class_labels is not None and not all(0 <= label <= num_classes for label in class_labels):
        last = num_classes - 1
        raise ValueError(f"class_labels = {class_labels}: expected 0 to {last}, or {num_classes} for no class")
