"""``scmap report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "One HTML page of what was run and what came of it."
EPILOG = """\b
Example:
  scmap report model embedded.h5ad scores.json tests.tsv -o report.html --color cell_type,batch

Pitfall: the report draws the cells of a file by the coordinates it holds; make them first, by `scmap embed --umap`. No
new embedding or score is computed.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="h5ad, npz, model directories, JSON of evaluate, TSV of gp-test and select-markers, in any order.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html",
            help="Page to write; numbers for MultiQC go to FILE_mqc.json beside it. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option("--title", metavar="TEXT", show_default="the name of FILE", help="Title.", rich_help_panel=o.DATA),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            "--color",
            metavar="NAME[,NAME]",
            show_default="columns of few categories, and depth",
            help="Columns of obs, genes, peaks or programs that pictures of cells show.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: o.BatchKey = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """One self-contained HTML page: runs, quality, training curves, pictures, scores, and what to look at."""
    options = begin(ctx, needs=("inputs", "output"))
    if color is not None:
        options["color"] = o.names(color)
    from scmap_cli.stages.report import report

    result = report(**options)
    finish(options | {"multiqc": result["multiqc"]}, "output", "multiqc")
