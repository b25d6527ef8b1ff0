"""Options of the verbs that choose marker genes, or score them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli.options import DATA, SCORES, WIDTHS

GENES = "Genes"

TrainCells = Annotated[
    Path | None,
    typer.Option(
        "--train-cells", metavar="FILE", help="Choose by these cells alone, one name a line.", rich_help_panel=DATA
    ),
]
ForceIn = Annotated[
    Path | None,
    typer.Option("--force-in", metavar="FILE", help="Genes that come first, one a line.", rich_help_panel=DATA),
]
ForceOut = Annotated[
    Path | None,
    typer.Option("--force-out", metavar="FILE", help="Genes that are not chosen, one a line.", rich_help_panel=DATA),
]
PriorScores = Annotated[
    Path | None,
    typer.Option(
        "--prior",
        metavar="FILE.tsv",
        help="Genes to start ahead, one gene<TAB>score a line.",
        rich_help_panel=DATA,
    ),
]
GeneCosts = Annotated[
    Path | None,
    typer.Option(
        "--costs", metavar="FILE.tsv", help="What genes cost, one gene<TAB>cost a line.", rich_help_panel=DATA
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME[,NAME]",
        show_default="none",
        help="Choose genes by these methods (see `select-markers -h`), or give --markers.",
        rich_help_panel=GENES,
    ),
]
MarkerTables = Annotated[
    list[Path] | None,
    typer.Option(
        "--markers",
        metavar="FILE.tsv",
        show_default="none",
        help="Genes of a table of select-markers; may be repeated.",
        rich_help_panel=GENES,
    ),
]
AsPublished = Annotated[
    bool,
    typer.Option(
        "--as-published",
        help="Run methods as the MarkerMap paper did, where that is not how they are meant.",
        rich_help_panel=GENES,
    ),
]
K = Annotated[int, typer.Option("-k", metavar="N", help="Number of genes.", rich_help_panel=GENES)]
KGrid = Annotated[
    str | None,
    typer.Option(
        "--k-grid",
        metavar=WIDTHS,
        show_default="that of -k",
        help="Numbers of genes at which methods are compared.",
        rich_help_panel=GENES,
    ),
]
Splits = Annotated[
    int, typer.Option("--splits", metavar="N", help="Seeded, stratified 70/10/20 splits.", rich_help_panel=SCORES)
]
