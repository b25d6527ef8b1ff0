"""``scmap preprocess peaks``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import peak_options as p
from scmap_cli.cli.session import begin, finish, refuse

SUMMARY = "Sets of peaks to one set; or peaks from fragments."
EPILOG = """\b
Example:
  scmap preprocess peaks a_peaks.narrowPeak b_peaks.narrowPeak -o peaks.bed --blacklist blacklist.bed

Pitfall: by reduction, chains of overlapping peaks become one long peak, so many sets give few wide peaks. --width 501
keeps peaks narrow and alike, at the price of leaving out the weaker of two that overlap.
"""

CALLING = "Peak calling"


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="BED or narrowPeak files; with --call, fragment files.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.bed", help="File to write; required.", rich_help_panel=o.DATA),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            metavar="N",
            show_default="off: union by reduction",
            help="Peaks of N bases around each summit (else the middle); of two that overlap the better one stays.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    chrom_sizes: Annotated[
        Path | None,
        typer.Option(
            "--chrom-sizes",
            metavar="FILE",
            help="Chromosomes and their lengths: peaks on others, or that end beyond, are left out.",
            rich_help_panel=p.FEATURES,
        ),
    ] = None,
    min_size: Annotated[
        int,
        typer.Option(
            "--min-size", metavar="N", help="Keep peaks of at least N bases; 0 is off.", rich_help_panel=p.FEATURES
        ),
    ] = 0,
    max_size: Annotated[
        int | None,
        typer.Option(
            "--max-size",
            metavar="N",
            show_default="off",
            help="Keep peaks of at most N bases.",
            rich_help_panel=p.FEATURES,
        ),
    ] = None,
    keep_chrom: p.KeepChrom = None,
    drop_chrom: p.DropChrom = None,
    blacklist: p.Blacklist = None,
    call: Annotated[
        bool,
        typer.Option(
            "--call",
            help="Inputs are fragments: call peaks in each with MACS3 (pip install 'scmap-cli[peaks]').",
            rich_help_panel=CALLING,
        ),
    ] = False,
    genome_size: Annotated[
        str,
        typer.Option(
            "--genome-size",
            metavar="hs|mm|ce|dm|N",
            help="Effective genome size, as MACS3 takes it.",
            rich_help_panel=CALLING,
        ),
    ] = "hs",
    q_value: Annotated[
        float,
        typer.Option("--q-value", metavar="X", help="Largest false discovery rate of a peak.", rich_help_panel=CALLING),
    ] = 0.05,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Sets of peaks to one set of disjoint peaks: by reduction, or all of one width. Peaks are called with --call.

    The output is BED of three columns, sorted by name and place; what was done is in FILE.bed.run.json.
    """
    if not call:
        refuse(ctx, ("genome_size", "q_value"), "needs --call")
    options = begin(ctx, needs=("inputs", "output"))
    from scmap_cli.stages.preprocess_peaks import preprocess_peaks

    preprocess_peaks(**options)
    finish(options, "output")
