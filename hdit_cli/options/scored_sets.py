"""Scoring options of `hdit eval-fid stats`, which reads one set, and of `hdit sweep`, which samples one run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.options.evaluation import EXTRACTORS, METRIC, ScoringOptions
from hdit_cli.options.shared import INPUT, OUTPUT, RECIPES, SAMPLING

SubsetSeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, help="Random seed for the subset of --count images.", rich_help_panel=INPUT),
]
SubsetCountOption = Annotated[
    int | None,
    typer.Option(
        "--count",
        "-n",
        "--n",
        min=1,
        help="Random subset of this many images.",
        show_default="all",
        rich_help_panel=INPUT,
    ),
]
StatisticsOutOption = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FILE.npz", help="Statistics file to write.", rich_help_panel=OUTPUT),
]
SampledSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Random seed for sampling.", rich_help_panel=SAMPLING)
]
RunExtractorOption = Annotated[
    str | None,
    typer.Option("--extractor", metavar="NAME", help=EXTRACTORS, show_default=RECIPES, rich_help_panel=METRIC),
]


@dataclass(frozen=True)
class StatisticsOptions(ScoringOptions):
    """The same for the statistics of one set, which depend on the seed only by the choice of images."""

    seed: SubsetSeedOption = 0


@dataclass(frozen=True)
class SweepScoringOptions(ScoringOptions):
    """The same for samples of one run."""

    extractor: RunExtractorOption = None
    seed: SampledSeedOption = 0
