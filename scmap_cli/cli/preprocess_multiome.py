"""``scmap preprocess multiome``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import peak_options as p
from scmap_cli.cli.session import begin, finish, refuse

SUMMARY = "RNA and ATAC paired by cell, with ATAC-only sets, to one h5ad."
EPILOG = """\b
Example:
  scmap preprocess multiome --rna rna.h5ad --atac atac.h5ad --atac-only old.h5ad -o multiome.h5ad

Pitfall: cells are paired by name. A sample's prefix or a suffix such as -1 on one side only leaves nothing paired; read
the numbers in the log.
"""


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]",
            show_default=False,
            help="One file of both: 10x .h5 or matrix folder, h5ad with feature_types, .h5mu.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=".h5ad for `train sailerx`; .h5mu: MuData with the counts of the RNA too. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.png", help="Draw the depths of the cells, by batch.", rich_help_panel=o.DATA
        ),
    ] = None,
    rna: Annotated[
        Path | None,
        typer.Option("--rna", metavar="FILE", show_default="in INPUT", help="Counts of genes.", rich_help_panel=o.DATA),
    ] = None,
    atac: Annotated[
        Path | None,
        typer.Option(
            "--atac",
            metavar="FILE",
            show_default="in INPUT",
            help="Counts of peaks in the cells of --rna.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    atac_only: Annotated[
        list[Path] | None,
        typer.Option(
            "--atac-only",
            metavar="FILE",
            show_default="none",
            help="Counts of the same peaks in cells without RNA; may be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    paired_only: Annotated[
        bool,
        typer.Option(
            "--paired-only",
            help="Drop cells of --atac that --rna lacks, instead of keeping them as ATAC-only.",
            rich_help_panel=o.DATA,
        ),
    ] = False,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample",
            metavar="NAME",
            show_default="file names",
            help="Name of a set: of the paired one, then of each --atac-only.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: Annotated[
        str,
        typer.Option(
            "--batch-key",
            metavar="COLUMN",
            help="Column of obs with the batches; of several sets, one without it is a batch of its own.",
            rich_help_panel=o.DATA,
        ),
    ] = "batch",
    reference_key: Annotated[
        str | None,
        typer.Option(
            "--reference-key",
            metavar="KEY",
            show_default="PCA made here",
            help="Key of obsm with the embedding of the RNA.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    components: Annotated[
        int,
        typer.Option("--components", metavar="N", help="Principal components of the RNA.", rich_help_panel=o.DATA),
    ] = 50,
    hvg: Annotated[
        int,
        typer.Option("--hvg", metavar="N", help="Most variable genes that they are made from.", rich_help_panel=o.DATA),
    ] = 2000,
    keep_chrom: p.KeepChrom = None,
    drop_chrom: p.DropChrom = None,
    min_cells: Annotated[
        int,
        typer.Option(
            "--min-cells", metavar="N", help="Keep peaks open in at least N of the cells.", rich_help_panel=p.FEATURES
        ),
    ] = 1,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """RNA and ATAC of the same cells, and ATAC of other cells, as one file for `train sailerx`.

    X holds the counts of peaks, obsm X_rna an embedding of the RNA (NaN for cells without), obs has_rna, rna_depth and
    atac_depth.
    """
    if reference_key is not None:
        refuse(ctx, ("components", "hvg"), "says nothing with --reference-key, which names an embedding")
    options = begin(ctx, needs=("output",))
    from scmap_cli.stages.preprocess_multiome import preprocess_multiome

    preprocess_multiome(**options)
    finish(options, "output", "plot")
