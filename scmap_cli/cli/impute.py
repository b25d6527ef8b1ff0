"""``scmap impute``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Denoised accessibility, all genes from the markers, or values of genes that were not seen."
EPILOG = """\b
Example:
  scmap impute model atac.h5ad -o imputed.h5ad --binarize cell

Pitfall: cells x peaks is large. --features takes a list of peaks, and --binarize makes the output sparse. Of expression
the value is told that a gene has if it is expressed; whether it is, no model here can tell.
"""


def verb(
    ctx: typer.Context,
    model_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL_DIR",
            show_default=False,
            help="Folder of a model of sailer, sailerx, expresser, or of markermap that is not supervised.",
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT", show_default=False, help="Counts; peaks or genes are matched by name, never by place."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=".h5ad: imputed values in X, with the input's obs. .npz: the matrix with names. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw values before and after: 200 cells, drawn by --seed, in their 40 most variable peaks or genes.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            metavar="FILE",
            show_default="all",
            help="Peaks or genes wanted, one name a line; expresser needs this or --entries-layer.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    entries_layer: Annotated[
        str | None,
        typer.Option(
            "--entries-layer",
            metavar="NAME",
            help="Expresser: layer of INPUT that marks the entries wanted, in place of --features.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    binarize: Annotated[
        str,
        typer.Option(
            "--binarize",
            metavar="none|cell|scale|X",
            help="none: probabilities. X: 1 above this probability. cell: 1 above the cell's mean probability. scale: "
            "1 above the raw data's means of peak and cell.",
            rich_help_panel=o.DATA,
        ),
    ] = "none",
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="NAME",
            show_default="the one of highest mean depth in training",
            help="Batch that all cells are decoded as.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    layer: o.Layer = None,
    min_overlap: o.MinOverlap = 0.5,
    reference_key: o.ReferenceKey = None,
    ignore_rna: o.IgnoreRna = False,
    batch_size: o.CellsAtOnce = 512,
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
    """What a model makes of every cell: denoised accessibility, all genes from the markers, or genes not seen.

    SAILER and SAILERX decode each cell at the depth of an average cell and as one batch, so that neither shows in the
    result. MarkerMap gives log1p CP10k of all genes; its input may hold the markers alone, and library sizes are then
    estimated. Expresser gives the value (log1p CP10k) of a gene given that it is expressed: of the genes of --features
    where a cell has none (its own values elsewhere), or of marked entries. Output is written a block at a time.
    """
    options = begin(ctx, needs=("model_dir", "input", "output"))
    from scmap_cli.stages.impute import impute

    impute(**options)
    finish(options, "plot")
