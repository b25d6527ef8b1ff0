"""``scmap preprocess atac``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import peak_options as p
from scmap_cli.cli.session import begin, finish

SUMMARY = "Fragments or BAM to one h5ad of counts in peaks or bins."
EPILOG = """\b
Example:
  scmap preprocess atac fragments.tsv.gz -o atac.h5ad --peaks peaks.bed --barcodes cells.txt --tss genes.gtf

Pitfall: --count decides what a count is. A fragment inside a peak is 1 by `fragments` and `paired`, 2 by `insertions`;
one that spans a whole peak is 1 by `fragments`, 0 by the others. Compare matrices of one rule only.
"""

CELLS, BAM = "Cells kept (bounds included)", "BAM"


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="Fragment files of 4 or 5 columns (plain, .gz, bgzip; sorted or not) or BAM files.",
        ),
    ] = None,
    output: o.H5adOutput = None,
    plot: o.QualityPlot = None,
    profiles: Annotated[
        bool,
        typer.Option(
            "--profiles",
            help="Also keep the lengths of all fragments and, with --tss, their cuts around start sites, for reports.",
            rich_help_panel=o.DATA,
        ),
    ] = False,
    barcodes: Annotated[
        list[Path] | None,
        typer.Option(
            "--barcodes",
            metavar="FILE",
            show_default="those with --min-fragments",
            help="Barcodes to keep, one a line, in this order; once, or once for each input.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    sample: o.Samples = None,
    batch_key: o.WrittenBatchKey = "batch",
    count: Annotated[
        Literal["fragments", "insertions", "paired"],
        typer.Option(
            "--count",
            help="What counts in a peak: fragments that overlap it, cuts inside it, or fragments with a cut inside it.",
            rich_help_panel=o.DATA,
        ),
    ] = "fragments",
    use_support: Annotated[
        bool,
        typer.Option(
            "--use-support",
            help="Count a fragment as often as its fifth column says (duplicates included), not once.",
            rich_help_panel=o.DATA,
        ),
    ] = False,
    max_bad_rows: Annotated[
        int,
        typer.Option(
            "--max-bad-rows",
            metavar="N",
            min=0,
            help="Rows of an input that may be no fragments: they are counted and left out.",
            rich_help_panel=o.DATA,
        ),
    ] = 0,
    peaks: Annotated[
        Path | None,
        typer.Option(
            "--peaks",
            metavar="FILE.bed",
            help="Peaks to count in, in this order; this or --bins is required.",
            rich_help_panel=p.FEATURES,
        ),
    ] = None,
    bins: Annotated[
        int | None,
        typer.Option(
            "--bins",
            metavar="N",
            show_default="off",
            help="Count in bins of N bases; needs --chrom-sizes.",
            rich_help_panel=p.FEATURES,
        ),
    ] = None,
    chrom_sizes: Annotated[
        Path | None,
        typer.Option(
            "--chrom-sizes",
            metavar="FILE",
            help="Chromosomes and their lengths; a fragment that ends beyond its chromosome is a bad row.",
            rich_help_panel=p.FEATURES,
        ),
    ] = None,
    keep_chrom: p.KeepChrom = None,
    drop_chrom: p.DropChrom = None,
    blacklist: p.Blacklist = None,
    min_cells: Annotated[
        int,
        typer.Option(
            "--min-cells",
            metavar="N",
            help="Keep features open in at least N of the cells kept; 0 is off.",
            rich_help_panel=p.FEATURES,
        ),
    ] = 0,
    min_cell_share: Annotated[
        float,
        typer.Option(
            "--min-cell-share",
            metavar="SHARE",
            help="Keep features open in at least this share of the cells kept (SAILER's thesis: 0.01).",
            rich_help_panel=p.FEATURES,
        ),
    ] = 0.0,
    max_cell_share: Annotated[
        float,
        typer.Option(
            "--max-cell-share",
            metavar="SHARE",
            help="Keep features open in at most this share of the cells kept (SAILER's thesis: 0.9).",
            rich_help_panel=p.FEATURES,
        ),
    ] = 1.0,
    tss: Annotated[
        Path | None,
        typer.Option(
            "--tss",
            metavar="FILE",
            help="Genes (GTF, or BED with strands): adds TSS enrichment and promoter ratio.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    mito_chrom: Annotated[
        list[str] | None,
        typer.Option(
            "--mito-chrom",
            metavar="NAME",
            show_default="chrM, chrMT, M, MT",
            help="Mitochondrial chromosome; may be repeated.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    min_fragments: Annotated[
        int | None,
        typer.Option(
            "--min-fragments",
            metavar="N",
            show_default="200, or off with --barcodes",
            help="Smallest number of fragments.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    max_fragments: Annotated[
        int | None,
        typer.Option(
            "--max-fragments",
            metavar="N",
            show_default="off",
            help="Largest number of fragments.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    min_frip: Annotated[
        float | None,
        typer.Option(
            "--min-frip",
            metavar="SHARE",
            show_default="off",
            help="Smallest share of fragments in peaks; needs --peaks.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    min_tss: Annotated[
        float | None,
        typer.Option(
            "--min-tss",
            metavar="X",
            show_default="off",
            help="Smallest TSS enrichment; needs --tss.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    min_promoter: Annotated[
        float | None,
        typer.Option(
            "--min-promoter",
            metavar="SHARE",
            show_default="off",
            help="Smallest share of fragments in promoters; needs --tss.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    max_promoter: Annotated[
        float | None,
        typer.Option(
            "--max-promoter",
            metavar="SHARE",
            show_default="off",
            help="Largest share of fragments in promoters; needs --tss.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    max_nucleosome: Annotated[
        float | None,
        typer.Option(
            "--max-nucleosome",
            metavar="X",
            show_default="off",
            help="Largest nucleosome signal.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    max_mito: Annotated[
        float | None,
        typer.Option(
            "--max-mito",
            metavar="PERCENT",
            show_default="off",
            help="Largest percentage of mitochondrial fragments.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    barcode_from: Annotated[
        str,
        typer.Option(
            "--barcode-from",
            metavar="TAG|name",
            help="Where a read pair has its barcode: a tag, or the read's name.",
            rich_help_panel=BAM,
        ),
    ] = "CB",
    barcode_regex: Annotated[
        str,
        typer.Option(
            "--barcode-regex",
            metavar="REGEX",
            help="Its first group is the barcode in a read's name.",
            rich_help_panel=BAM,
        ),
    ] = "^([^:]+):",
    min_mapq: Annotated[
        int,
        typer.Option("--min-mapq", metavar="N", help="Smallest mapping quality of both reads.", rich_help_panel=BAM),
    ] = 30,
    keep_duplicates: Annotated[
        bool,
        typer.Option(
            "--keep-duplicates",
            help="Count every copy of a fragment, also those marked as duplicates.",
            rich_help_panel=BAM,
        ),
    ] = False,
    shift_start: Annotated[
        int,
        typer.Option("--shift-start", metavar="N", help="Bases added to a fragment's start.", rich_help_panel=BAM),
    ] = 4,
    shift_end: Annotated[
        int, typer.Option("--shift-end", metavar="N", help="Bases added to a fragment's end.", rich_help_panel=BAM)
    ] = -5,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Fragments or BAM to one h5ad: whole-number counts of cells x peaks or bins, QC columns, filters.

    The same input gives the same bytes with any number of threads. BAM and text are told apart by content.
    """
    options = begin(ctx, needs=("inputs", "output"))
    from scmap_cli.stages.preprocess_atac import preprocess_atac

    preprocess_atac(**options)
    finish(options, "output", "plot")
