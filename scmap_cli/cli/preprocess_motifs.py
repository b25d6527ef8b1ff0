"""``scmap preprocess motifs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Motif deviations of each cell from peaks, in the manner of chromVAR."
EPILOG = """\b
Example:
  scmap preprocess motifs atac.h5ad --genome mm10.fa --motifs jaspar.txt -o motifs.h5ad

Pitfall: motifs of one family match nearly the same sites, so a high score names the family, not the factor. Few counts
a cell leave many entries without evidence; the log says how many.
"""
_MATCHES, _BACKGROUND = "Matches", "Background peaks"


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None, typer.Argument(metavar="ATAC.h5ad", show_default=False, help="Counts of peaks, cells in rows.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.h5ad", help="File to write; required.", rich_help_panel=o.DATA),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.png", help="Draw how much each motif varies over the cells.", rich_help_panel=o.DATA
        ),
    ] = None,
    genome: Annotated[
        Path | None,
        typer.Option(
            "--genome",
            metavar="FASTA",
            help="Genome that the peaks are on, plain or bgzip; required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    motifs: Annotated[
        Path | None,
        typer.Option(
            "--motifs",
            metavar="FILE",
            help="Motifs in JASPAR's format, counts or shares, plain or gzip; required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    layer: o.Layer = None,
    matches_output: Annotated[
        Path | None,
        typer.Option(
            "--matches-output",
            metavar="FILE.npz",
            help="Also write which peaks hold which motif.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    p_value: Annotated[
        float,
        typer.Option(
            "--p-value",
            metavar="P",
            help="Chance of a match at a random site on one strand, which sets each motif's threshold.",
            rich_help_panel=_MATCHES,
        ),
    ] = 5e-5,
    pseudocount: Annotated[
        float,
        typer.Option(
            "--pseudocount", metavar="X", help="Added to the counts of each place of a motif.", rich_help_panel=_MATCHES
        ),
    ] = 0.8,
    base_frequencies: Annotated[
        Literal["peaks", "even"],
        typer.Option(
            "--base-frequencies", help="Background frequencies of bases: the peaks', or even.", rich_help_panel=_MATCHES
        ),
    ] = "peaks",
    background_draws: Annotated[
        int,
        typer.Option(
            "--background-draws", metavar="N", help="Background peaks of each peak.", rich_help_panel=_BACKGROUND
        ),
    ] = 50,
    background_width: Annotated[
        float,
        typer.Option(
            "--background-width",
            metavar="X",
            help="Spread of their GC content and mean about the peak's, in standard deviations.",
            rich_help_panel=_BACKGROUND,
        ),
    ] = 0.1,
    background_bins: Annotated[
        int,
        typer.Option(
            "--background-bins",
            metavar="N",
            help="Steps of GC content, and of the mean, that are told apart.",
            rich_help_panel=_BACKGROUND,
        ),
    ] = 50,
    min_expected: Annotated[
        float,
        typer.Option(
            "--min-expected",
            metavar="X",
            help="Entries with fewer expected counts are 0.",
            rich_help_panel=_BACKGROUND,
        ),
    ] = 1.0,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Which peaks hold which motif, and how far each cell's counts at a motif deviate from what is expected.

    X holds z-scores, layers deviations the bias-corrected deviations, var the motifs. Groups of cells are compared by
    scanpy: sc.tl.rank_genes_groups on X.
    """
    options = begin(ctx, needs=("input", "output", "genome", "motifs"))
    from scmap_cli.stages.preprocess_motifs import preprocess_motifs

    preprocess_motifs(**options)
    finish(options, "output", "matches_output", "plot")
