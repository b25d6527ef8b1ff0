"""``scmap evaluate reconstruction``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "How well all genes are rebuilt from a few, or by a model."
EPILOG = """\b
Example:
  scmap evaluate reconstruction rna.h5ad --method greedy-columns,hvg -k 50 -o - | jq '.results[].overall.mse'

Pitfall: errors on different scales cannot be compared. A reconstruction is scored as it is unless it holds counts and
--reconstruction-values says so; --scale must then be that of the paper's table you compare with.
"""
_SCORES = "Scores"


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None, typer.Argument(metavar="INPUT", show_default=False, help="Raw counts, the truth.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE.json", help="File to write; - is stdout.", rich_help_panel=o.DATA),
    ] = Path("-"),
    reconstruction: Annotated[
        list[Path] | None,
        typer.Option(
            "--reconstruction",
            metavar="FILE.h5ad",
            show_default="none",
            help="Rebuilt values in X, matched by name; may be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    reconstruction_values: Annotated[
        Literal["same", "counts"],
        typer.Option(
            "--reconstruction-values",
            help="They are on the scale of --scale already, or counts to be brought to it.",
            rich_help_panel=o.DATA,
        ),
    ] = "same",
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            metavar="COLUMN",
            show_default="none",
            help="Column of obs with the labels; also score each.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    exclude_labels: o.ExcludeLabels = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    method: o.Methods = None,
    markers: o.MarkerTables = None,
    as_published: o.AsPublished = False,
    k: Annotated[int, typer.Option("-k", metavar="N", help="Number of genes.", rich_help_panel=_SCORES)] = 50,
    scale: Annotated[
        Literal["scaled", "global"],
        typer.Option(
            "--scale",
            help="log1p CP10k scaled by gene, or log2(1 + counts) by one mean and deviation.",
            rich_help_panel=_SCORES,
        ),
    ] = "scaled",
    splits: Annotated[
        int,
        typer.Option("--splits", metavar="N", help="Seeded, stratified 70/10/20 splits.", rich_help_panel=_SCORES),
    ] = 5,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """How well all genes are rebuilt: from chosen genes by a linear map, or by a model in a file, as JSON.

    Errors of an entry and of a cell, and whether the same genes vary; overall and, with --label-key, by class.
    """
    options = begin(ctx, needs=("input",), text_output=True)
    if method is not None:
        options["method"] = o.names(method)
    from scmap_cli.stages.evaluate_markers import render
    from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction

    result = evaluate_reconstruction(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output")
