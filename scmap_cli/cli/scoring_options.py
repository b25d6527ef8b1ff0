"""Options of the verbs of ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli.options import DATA, GRID, SCORES

Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="INPUTs are JSON files of earlier runs of this verb; write one table of them (TSV, or JSON by its name).",
        rich_help_panel=DATA,
    ),
]
ScoresOutput = Annotated[
    Path, typer.Option("-o", "--output", metavar="FILE.json", help="File to write; - is stdout.", rich_help_panel=DATA)
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        metavar="KEY",
        show_default="that of an scmap model, else of a baseline",
        help="Key of obsm (of an npz, array name); may be repeated.",
        rich_help_panel=DATA,
    ),
]
MaxCells = Annotated[
    int | None,
    typer.Option(
        "--max-cells", metavar="N", show_default="all", help="Score a seeded sample of N cells.", rich_help_panel=DATA
    ),
]
ClusterMethod = Annotated[
    Literal["leiden", "louvain"], typer.Option("--cluster", help="Clustering of the graphs.", rich_help_panel=GRID)
]
Subsamples = Annotated[
    int,
    typer.Option(
        "--subsamples",
        metavar="N",
        help="Also score N seeded subsamples of 90 % of the cells, for error bars; 0 is none.",
        rich_help_panel=SCORES,
    ),
]
