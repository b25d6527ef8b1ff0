"""``scmap evaluate markers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import marker_options as m
from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "How well marker genes tell the classes of unseen cells."
EPILOG = """\b
Example:
  scmap evaluate markers rna.h5ad -o scores.json --label-key cell_type --method t-test --k-grid 10,25,50 --plot k.png

Pitfall: a table of genes that were chosen by all cells has seen the test cells; the log says so. Tables made with
--splits, and methods named here, choose by the training cells of each split.
"""


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", show_default=False, help="Raw counts with labels."),
    ] = None,
    output: s.ScoresOutput = Path("-"),
    confusion_output: Annotated[
        Path | None,
        typer.Option(
            "--confusion-output",
            metavar="FILE.tsv",
            help="Also write the confusion matrices, summed over splits.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw the first confusion matrix, and accuracy by number of genes and label noise.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot_umap: Annotated[
        Path | None,
        typer.Option(
            "--plot-umap",
            metavar="FILE.png",
            help="Draw a UMAP of the cells by the first source's genes, for every number of genes.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    label_key: o.LabelKey = None,
    exclude_labels: o.ExcludeLabels = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    method: m.Methods = None,
    markers: m.MarkerTables = None,
    as_published: m.AsPublished = False,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            metavar="N",
            show_default="50 of a method, all of a table",
            help="Number of genes.",
            rich_help_panel=o.SCORES,
        ),
    ] = None,
    k_grid: m.KGrid = None,
    label_noise: Annotated[
        str | None,
        typer.Option(
            "--label-noise",
            metavar=o.NUMBERS,
            show_default="none",
            help="Shares of training labels to draw anew: in all training, and in choosing genes alone.",
            rich_help_panel=o.SCORES,
        ),
    ] = None,
    splits: m.Splits = 10,
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
    """How well chosen genes tell the classes of unseen cells: 5 neighbours and a forest of 100 trees, as JSON.

    Accuracy, macro and weighted F1, misclassification and F1 of each class; mean and spread over splits.
    """
    options = begin(ctx, needs=("input", "label_key"), text_output=True)
    if k_grid is not None:
        options["k_grid"] = o.integers(k_grid, "--k-grid")
    if label_noise is not None:
        options["label_noise"] = o.floats(label_noise, "--label-noise")
    if method is not None:
        options["method"] = o.names(method)
    from scmap_cli.stages.evaluate_markers import evaluate_markers
    from scmap_cli.stages.scores import render

    result = evaluate_markers(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "confusion_output", "plot", "plot_umap")
