"""``scmap evaluate reconstruction``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import marker_options as m
from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.session import begin, emit, finish, refuse

SUMMARY = "How well all genes are rebuilt from a few, or by a model."
EPILOG = """\b
Example:
  scmap evaluate reconstruction rna.h5ad --method greedy-columns,hvg -k 50 -o - | jq '.results[].overall.mse'

Pitfall: errors on different scales cannot be compared. A reconstruction is scored as it is unless
--reconstruction-values says that it holds counts or, as `impute` writes by a MarkerMap model, log1p CP10k; --scale must
then be that of the paper's table you compare with.
"""


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None, typer.Argument(metavar="INPUT", show_default=False, help="Raw counts, the truth.")
    ] = None,
    output: s.ScoresOutput = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw the errors, and the variance of every gene before and after.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot_types: Annotated[
        Path | None,
        typer.Option(
            "--plot-types",
            metavar="FILE.png",
            help="Draw the first source class by class: variances, principal components, errors.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
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
        Literal["same", "log1p", "counts"],
        typer.Option(
            "--reconstruction-values",
            help="They are on the scale of --scale already; or log1p CP10k, as `impute` writes, or counts.",
            rich_help_panel=o.DATA,
        ),
    ] = "same",
    label_key: o.LabelColumn = None,
    exclude_labels: o.ExcludeLabels = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    method: m.Methods = None,
    markers: m.MarkerTables = None,
    as_published: m.AsPublished = False,
    k: m.K = 50,
    scale: Annotated[
        Literal["scaled", "global"],
        typer.Option(
            "--scale",
            help="log1p CP10k scaled by gene, or log2(1 + counts) by one mean and deviation.",
            rich_help_panel=o.SCORES,
        ),
    ] = "scaled",
    splits: m.Splits = 5,
    seed: o.Seed = 0,
    device: o.Device = "auto",
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
    if reconstruction and not method:
        refuse(ctx, ("as_published",) if markers else ("k", "splits", "as_published"), "is not for --reconstruction")
    if not reconstruction:
        refuse(ctx, ("reconstruction_values",), "needs --reconstruction")
    options = begin(ctx, needs=("input",), text_output=True)
    if method is not None:
        options["method"] = o.names(method)
    from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction
    from scmap_cli.stages.scores import render

    result = evaluate_reconstruction(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "plot", "plot_types")
