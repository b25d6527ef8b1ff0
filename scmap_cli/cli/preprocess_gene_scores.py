"""``scmap preprocess gene-scores``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Gene scores from the peaks at promoters and gene bodies."
EPILOG = """\b
Example:
  scmap preprocess gene-scores atac.h5ad --genes genes.gtf.gz -o scores.h5ad --smooth --only CD14,MS4A1,CD3D

Pitfall: a peak that lies at several genes counts for each of them, and open chromatin is not expression; use scores to
name clusters, not to measure genes.
"""
_WEIGHTS, _SMOOTH = "Weights", "Smoothing"


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None, typer.Argument(metavar="ATAC.h5ad", show_default=False, help="Counts of peaks, cells in rows.")
    ] = None,
    output: o.H5adOutput = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            "--genes",
            metavar="BED|GTF",
            help="Genes of the same genome, plain or gzip, with names and strands; required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    layer: o.Layer = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="NAME,...",
            show_default="all with a peak",
            help="Genes to keep.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    upstream: Annotated[
        int,
        typer.Option("--upstream", metavar="BP", help="Promoter before the start of a gene.", rich_help_panel=_WEIGHTS),
    ] = 2000,
    downstream: Annotated[
        int,
        typer.Option("--downstream", metavar="BP", help="Stretch behind the end of a gene.", rich_help_panel=_WEIGHTS),
    ] = 0,
    decay: Annotated[
        float | None,
        typer.Option(
            "--decay",
            metavar="BP",
            show_default="overlapping peaks alone",
            help="Peaks farther off count by exp(-distance / BP), up to 5 BP.",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth",
            help="Also write layer magic: square roots of normalised scores, smoothed over cells by MAGIC.",
            rich_help_panel=_SMOOTH,
        ),
    ] = False,
    smooth_on: Annotated[
        str | None,
        typer.Option(
            "--smooth-on",
            metavar="KEY",
            show_default="LSI of the peaks",
            help="Key of obsm: the embedding on which cells are neighbours.",
            rich_help_panel=_SMOOTH,
        ),
    ] = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Gene scores: counts of the peaks at each gene's promoter and body, by distance and smoothed on request."""
    options = begin(ctx, needs=("input", "output", "genes"))
    if only is not None:
        options["only"] = o.names(only)
    from scmap_cli.stages.preprocess_gene_scores import preprocess_gene_scores

    preprocess_gene_scores(**options)
    finish(options, "output")
