"""``scmap select-markers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import marker_options as m
from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, emit, finish
from scmap_cli.cli.settings import load_sections
from scmap_cli.registry import SELECTORS

SUMMARY = "Marker genes by many methods, and the methods compared."
_METHODS = "\n".join(f"  {spec.name:<24}{spec.summary}" for spec in SELECTORS.values())
EPILOG = f"""\b
Methods:
{_METHODS}

--as-published gives MarkerMap the paper's loss, width, temperatures, batches, epochs and largest learning rate. Its
learning rate finder, batch norm and mask that may end soft stay out.

\b
Example:
  scmap select-markers rna.h5ad -o markers.tsv -k 50 --method l1-logistic --label-key cell_type
  scmap select-markers rna.h5ad -o table.tsv --benchmark methods.txt --k-grid 10,25,50 --splits 10 --label-key cell_type

Pitfall: genes chosen by all cells look too good on any of them. To score genes, choose them by training cells alone:
with --splits here and in `evaluate markers`, or let `evaluate markers --method` choose.
"""
_BENCHMARK, _MODEL = "Benchmark", "Method markermap"


def verb(
    ctx: typer.Context,
    input: o.RnaInput = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.tsv",
            help="Rank, gene, score and class; - for stdout. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    h5ad_output: Annotated[
        Path | None,
        typer.Option(
            "--h5ad-output",
            metavar="FILE.h5ad",
            help="Also write the input with the markers in var, as scmap_marker and more.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw the markers by class as dots and heat map; of a benchmark, its scores.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    label_key: o.LabelColumn = None,
    exclude_labels: o.ExcludeLabels = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    k: Annotated[
        int | None,
        typer.Option("-k", metavar="N", show_default="50", help="Number of genes.", rich_help_panel=m.GENES),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            show_default="markermap",
            help="How to choose; see Methods below.",
            rich_help_panel=m.GENES,
        ),
    ] = None,
    as_published: m.AsPublished = False,
    splits: Annotated[
        int | None,
        typer.Option(
            "--splits",
            metavar="N",
            show_default="no split; 3 with --benchmark",
            help="Choose anew from the training cells of N seeded 70/10/20 splits.",
            rich_help_panel=m.GENES,
        ),
    ] = None,
    train_cells: m.TrainCells = None,
    force_in: m.ForceIn = None,
    force_out: m.ForceOut = None,
    mode: Annotated[
        Literal["supervised", "unsupervised", "joint"] | None,
        typer.Option(
            "--mode",
            show_default="supervised",
            help="What the model is trained for.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="MODEL_DIR", help="Take the markers of this model instead.", rich_help_panel=_MODEL
        ),
    ] = None,
    model_out: Annotated[
        Path | None,
        typer.Option("--model-out", metavar="MODEL_DIR", help="Keep the model here.", rich_help_panel=_MODEL),
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(
            "--model-config",
            metavar="FILE.toml",
            help="Its [model] and [train] as in --config of `train markermap`; options here prevail.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    prior: m.PriorScores = None,
    costs: m.GeneCosts = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            "--benchmark",
            metavar="FILE",
            help="Compare the methods of this file, one a line, `as-published` after it for the paper's way.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = None,
    k_grid: m.KGrid = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary", metavar="FILE.tsv", help="Also write means over the splits.", rich_help_panel=_BENCHMARK
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            show_default="one a thread",
            help="Processes, which share the threads.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = None,
    raw_depth: Annotated[
        bool,
        typer.Option(
            "--raw-depth",
            help="Compare on log1p of the counts as they are, as the MarkerMap paper did on Zeisel's.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = False,
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
    """Choose k genes that tell classes apart, or that all other genes can be rebuilt from.

    With --benchmark, compare methods over splits and numbers of genes. A benchmark or a training of MarkerMap that is
    stopped goes on where it was, unless all goes to stdout; other runs begin anew. MarkerMap alone runs on --device.
    """
    options = begin(ctx, needs=("input", "output"), text_output=True)
    if k_grid is not None:
        options["k_grid"] = o.integers(k_grid, "--k-grid")
    if model_config is not None:
        load_sections(ctx, model_config)
    from scmap_cli.stages.select_markers import select_markers

    result = select_markers(**options)
    if str(output) == "-" and not dry_run:
        emit(result["table"])
    finish(options, "output", "h5ad_output", "plot", "summary")
