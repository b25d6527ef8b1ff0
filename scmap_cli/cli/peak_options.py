"""Options of the verbs that prepare peaks, and of the models of them, SAILER and SAILERX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli.options import DATA, MODEL

FEATURES = "Features"

KeepChrom = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-chrom",
        metavar="PATTERN",
        show_default="all",
        help="Keep features on chromosomes that fit a name or shell pattern such as 'chr[0-9]*'; may be repeated.",
        rich_help_panel=FEATURES,
    ),
]
DropChrom = Annotated[
    list[str] | None,
    typer.Option(
        "--drop-chrom",
        metavar="PATTERN",
        show_default="none",
        help="Drop features on chromosomes that fit a name or shell pattern; may be repeated.",
        rich_help_panel=FEATURES,
    ),
]
Blacklist = Annotated[
    Path | None,
    typer.Option(
        "--blacklist", metavar="FILE.bed", help="Drop features that overlap these regions.", rich_help_panel=FEATURES
    ),
]
DepthKey = Annotated[
    str | None,
    typer.Option(
        "--depth-key",
        metavar="COLUMN",
        show_default="number of open peaks",
        help="Column of obs with the depth of each cell, such as its fragments.",
        rich_help_panel=DATA,
    ),
]
Covariates = Annotated[
    list[str] | None,
    typer.Option(
        "--covariates",
        metavar="COLUMN",
        show_default="none",
        help="Further column of obs to be free of, numbers or categories; may be repeated.",
        rich_help_panel=DATA,
    ),
]
Thinning = Annotated[
    float,
    typer.Option(
        "--thinning",
        metavar="SHARE",
        help="Largest share of a cell's open peaks hidden from the encoder in a training step; 0 is off.",
        rich_help_panel=MODEL,
    ),
]
PeakShare = Annotated[
    str,
    typer.Option(
        "--peak-share",
        metavar="auto|SHARE",
        help="Share of the peaks whose likelihood a step looks at, drawn anew each step; auto is 12,500 at most.",
        rich_help_panel=MODEL,
    ),
]
Invariance = Annotated[
    str,
    typer.Option(
        "--invariance",
        metavar="auto|X",
        help="Weight lambda of the invariance term; auto finds by short trials where a larger one brings little more.",
        rich_help_panel=MODEL,
    ),
]
InvarianceBound = Annotated[
    Literal["pairwise", "mixture"],
    typer.Option(
        "--invariance-bound",
        help="pairwise: mean divergence between cells (thesis). mixture: from their mixture, tighter.",
        rich_help_panel=MODEL,
    ),
]
PositiveWeight = Annotated[
    str,
    typer.Option(
        "--positive-weight",
        metavar="none|auto|X",
        help="Weight omega of open peaks; auto is closed over open entries.",
        rich_help_panel=MODEL,
    ),
]
KlWeight = Annotated[
    float,
    typer.Option("--kl-weight", metavar="X", help="Final weight beta of both divergences.", rich_help_panel=MODEL),
]
WarmupEpochs = Annotated[
    float,
    typer.Option("--warmup-epochs", metavar="N", help="First epochs, without divergences.", rich_help_panel=MODEL),
]
CycleEpochs = Annotated[
    float,
    typer.Option(
        "--cycle-epochs",
        metavar="N",
        help="Epochs of a cycle: beta rises over the first half of it.",
        rich_help_panel=MODEL,
    ),
]
Cycles = Annotated[
    int, typer.Option("--cycles", metavar="N", help="Cycles, after which beta stays.", rich_help_panel=MODEL)
]
