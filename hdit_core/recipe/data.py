"""`[data]`: which images, in which order, how they are augmented; `[condition]`: condition images made from them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.base_table import (
    Listed,
    NonNegativeInt,
    Path,
    PositiveFloat,
    PositiveInt,
    Probability,
    Problem,
    Table,
)

DegradeKind = Literal["downscale", "blur", "noise", "grey", "mask", "jpeg"]
Kernel = Literal["box", "bilinear", "bicubic", "lanczos"]
MaskShape = Literal["rectangles", "center", "free-form"]
Quality = Annotated[int, Field(ge=1, le=100)]
Dtype = Literal["uint8", "uint16", "float32"]
ValueRange = Annotated[tuple[Annotated[tuple[float, float], Listed], ...], Listed]


class DataRecipe(Table):
    """The prepared data set, and how it is read."""

    path: Path = Field(
        "data",
        description="folder that `hdit prepare-data` wrote, relative to the working directory, or a remote address "
        "such as s3://bucket/faces",
    )
    cache_gb: PositiveFloat = Field(
        50.0, description="disk space for the shards of remote data sets, in GB (10^9 bytes)"
    )
    order: Literal["uniform", "blocks"] = Field(
        "uniform",
        description="uniform: each epoch shuffles all images; blocks: it shuffles the shards, then the images within "
        "`block_shards` shards, for slow disks and remote stores",
    )
    block_shards: PositiveInt = Field(8, description="`blocks`: shards among which images are shuffled together")
    workers: NonNegativeInt = Field(2, description="reader processes per rank; 0: the training process reads itself")
    max_damaged: NonNegativeInt = Field(
        0, description="tolerated corrupt images (reported and replaced); one more ends the run"
    )
    dtype: Dtype = Field(
        "uint8", description="data type of the images, which is the data set's; samples are saved in it"
    )
    value_range: ValueRange = Field(
        (),
        description="values that are mapped to [-1, 1], as in the data set: [[low, high]], or a pair per channel; "
        "[]: all values of the integers",
    )
    mirror: bool = Field(
        False,
        description="mirror each image, and its condition image, with probability 1/2, without conditioning on it",
    )
    augment_prob: Probability = Field(
        0.0, description="probability of each augmentation; 0 disables all, including the horizontal flip"
    )

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        if self.mirror and self.augment_prob:
            yield "mirror", f"and augment_prob = {self.augment_prob} both flip the images; use one of them"
        yield from _missing_range(self)


class DegradeRecipe(Table):
    """One degradation of an image. Keys that a kind does not use are refused, not ignored."""

    kind: DegradeKind = Field(
        description="downscale (and resize back to the grid), blur, noise, grey (3 channels to 1), mask (appends the "
        "mask as a channel, 1 where the image is to be filled in; last in the list) or jpeg"
    )
    factor: Annotated[float, Field(gt=1)] | None = Field(
        None, description="downscale: how many times smaller, more than 1. Required"
    )
    kernel: Kernel | None = Field(None, description="downscale: filter of the reduction. Default: bicubic")
    sigma: PositiveFloat | None = Field(None, description="blur: standard deviation in pixels. Required")
    std: PositiveFloat | None = Field(
        None, description="noise: standard deviation, for pixels in [-1, 1]. Required; the result is clipped"
    )
    shape: MaskShape | None = Field(None, description="mask: shape of the masked region. Default: rectangles")
    area: Annotated[tuple[Probability, Probability], Listed] | None = Field(
        None, description="mask: [low, high], the masked fraction of the image. Default: [0.1, 0.5]"
    )
    quality: Annotated[tuple[Quality, Quality], Listed] | None = Field(
        None, description="jpeg: [low, high], the quality. Default: [30, 90]"
    )

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        used = KEYS_OF_DEGRADATION[self.kind]
        for key in type(self).model_fields:
            if key != "kind" and getattr(self, key) is not None and key not in used:
                takes = f"takes {', '.join(used)}" if used else "takes no other key"
                yield key, f"has no effect with kind = '{self.kind}', which {takes}"
        for key, example in REQUIRED_OF_DEGRADATION.get(self.kind, {}).items():
            if getattr(self, key) is None:
                yield key, f"missing; required by '{self.kind}', for example {example}"
        for key in ("area", "quality"):
            bounds = getattr(self, key)
            if bounds is not None and bounds[0] > bounds[1]:
                yield key, f"it ends at {bounds[1]}, which is below its start at {bounds[0]}"


KEYS_OF_DEGRADATION: dict[str, tuple[str, ...]] = {
    "downscale": ("factor", "kernel"),
    "blur": ("sigma",),
    "noise": ("std",),
    "grey": (),
    "mask": ("shape", "area"),
    "jpeg": ("quality",),
}
REQUIRED_OF_DEGRADATION: dict[str, dict[str, str]] = {
    "downscale": {"factor": "4"},
    "blur": {"sigma": "2"},
    "noise": {"std": "0.1"},
}


class ConditionRecipe(Table):
    """The condition image, computed from the image itself; without degradations it is read from the data set."""

    degrade: Annotated[tuple[DegradeRecipe, ...], Listed] = Field(
        (), description="degradations of the image, applied in this order"
    )
    dtype: Dtype = Field(
        "uint8", description="data type of the data set's condition images; files of `hdit restore` are read in it"
    )
    value_range: ValueRange = Field(
        (), description="values of these condition images that are mapped to [-1, 1], as data.value_range"
    )

    def constraint_violations(self) -> Iterator[Problem]:
        """Yield the violated constraints between keys."""
        for key, default in (("dtype", "uint8"), ("value_range", ())):
            if self.degrade and (value := getattr(self, key)) != default:
                yield key, f"{value} has no effect with condition.degrade, which computes condition images from images"
        yield from _missing_range(self)
        for index, operation in enumerate(self.degrade[:-1]):
            if operation.kind == "mask":
                yield f"degrade[{index}].kind", "'mask' must be the last: what follows would change the mask too"

    def channel_problems(self, channels: int) -> Iterator[Problem]:
        """Yield the degradations that an image of so many channels cannot have."""
        for index, operation in enumerate(self.degrade):
            if operation.kind == "grey" and channels != 3:
                yield f"degrade[{index}].kind", f"'grey' needs images of 3 channels, found {channels}; leave it out"
            if operation.kind == "jpeg" and channels not in (1, 3):
                yield f"degrade[{index}].kind", f"'jpeg' needs images of 1 or 3 channels, found {channels}"
            channels = degraded_channels([operation], channels)


def _missing_range(table: DataRecipe | ConditionRecipe) -> Iterator[Problem]:
    if table.dtype == "float32" and not table.value_range:
        yield "value_range", "missing; required by dtype = 'float32', for example [[0.0, 1.0]]"


def degraded_channels(operations: Sequence[DegradeRecipe], channels: int) -> int:
    """Return the channels of a condition image that these degradations make from an image of `channels`."""
    for operation in operations:
        channels = 1 if operation.kind == "grey" else channels + (operation.kind == "mask")
    return channels
