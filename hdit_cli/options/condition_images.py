"""Options of conditional networks: condition images and vectors of samples, and restoration."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from hdit_cli.options.shared import INPUT, OUTPUT, image_size
from hdit_core.errors import UsageError
from hdit_core.files import STDIN

if TYPE_CHECKING:
    from hdit_core.generate.condition.sources import Conditions
    from hdit_core.generate.restore.tiles import Tiling
    from hdit_core.recipe.model import ModelRecipe
    from hdit_core.recipe.run import Recipe


ConditionOption = Annotated[
    str | None,
    typer.Option(
        "--condition",
        metavar="PATH",
        help="Condition images: folder, archive, image or data set. Sample i has the i-th; after the last one they "
        "repeat from the first.",
        show_default=False,
    ),
]
VectorOption = Annotated[
    Path | None,
    typer.Option(
        "--vectors",
        "--vector",
        metavar="PATH",
        help="Conditioning vectors: .npy of one row per sample, or a data set.",
        show_default=False,
    ),
]
InputsArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Image, or folder, archive or data set of images; - for a tar on stdin.",
        show_default=False,
    ),
]
RestoredOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the restored images, under the same names, or a file .tar; - writes a tar to stdout.",
        rich_help_panel=OUTPUT,
    ),
]
InputVectorOption = Annotated[
    Path | None,
    typer.Option(
        "--vectors",
        "--vector",
        metavar="PATH",
        help="Conditioning vectors: .npy of one row per input, in their order, or of one for all; or a data set.",
        show_default=False,
    ),
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="PATH",
        help="For inpainting: mask for all images, or folder of masks of the same names; white is filled in.",
        show_default="transparent pixels",
    ),
]
DegradeOption = Annotated[
    bool,
    typer.Option(
        "--degrade",
        help="Inputs are clean images: apply the recipe's degradations first, for demos and scores.",
    ),
]
TileOption = Annotated[
    str | None,
    typer.Option(
        "--tile",
        metavar="N|HxW",
        help="Larger images are divided into overlapping tiles of this size.",
        show_default="the training size",
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        min=0,
        metavar="PIXELS",
        help="Overlap of neighboring tiles.",
        show_default="a quarter of the tile",
    ),
]


@dataclass(frozen=True)
class ConditionOptions:
    """Condition images and vectors of samples."""

    SECTION: ClassVar[str] = INPUT

    condition: ConditionOption = None
    vector: VectorOption = None

    def open(self, recipe: "Recipe", size: tuple[int, int], seed: int) -> "Conditions | None":
        """Return the conditions, None if none are given.

        Raises:
            UsageError, DataError: they do not fit the network.
        """
        from hdit_core.generate.condition.sources import open_conditions

        return open_conditions(recipe, size, seed, self.condition, self.vector)


@dataclass(frozen=True)
class DegradationOptions:
    """How inputs become condition images."""

    SECTION: ClassVar[str] = INPUT

    mask: MaskOption = None
    vector: InputVectorOption = None
    degrade: DegradeOption = False

    def __post_init__(self) -> None:
        """Refuse masks on stdin, with a UsageError."""
        if self.mask == STDIN:
            raise UsageError("--mask -: masks are read from a file or a folder")


@dataclass(frozen=True)
class TilingOptions:
    """How images larger than the training size are divided."""

    SECTION: ClassVar[str] = "Sampling"

    tile: TileOption = None
    overlap: OverlapOption = None

    def of(self, model: "ModelRecipe") -> "Tiling":
        """Return the tiling for a network.

        Raises:
            UsageError: the network cannot process tiles of that size, or the overlap is not smaller than a tile.
        """
        from hdit_core.generate.restore.tiles import Tiling

        size = model.image_size if self.tile is None else image_size(self.tile, "--tile")
        return Tiling.of(model, size, self.overlap)
