"""``scmap preprocess rna``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Raw counts in any form to one h5ad."
EPILOG = """\b
Example:
  scmap preprocess rna a.h5ad b.h5ad -o rna.h5ad --min-genes 200 --min-cells 3 --hvg 2000

Pitfall: genes of several inputs are matched by name, so inputs that name genes differently share few of them: bring
them to one kind of name with --gene-column, and read the numbers in the log.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="Raw counts: h5ad, 10x .h5, 10x matrix folder, TSV or CSV (.gz). Several are merged.",
        ),
    ] = None,
    output: o.H5adOutput = None,
    plot: o.QualityPlot = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    make_unique: Annotated[
        bool,
        typer.Option(
            "--make-unique",
            help="Tell repeated names apart by -1, -2, ... instead of refusing them.",
            rich_help_panel=o.DATA,
        ),
    ] = False,
    transpose: Annotated[
        bool,
        typer.Option(
            "--transpose", help="Text tables have genes in rows and cells in columns.", rich_help_panel=o.DATA
        ),
    ] = False,
    sample: o.Samples = None,
    batch_key: o.WrittenBatchKey = "batch",
    join: Annotated[
        Literal["inner", "outer"],
        typer.Option(
            "--gene-join",
            help="Genes that all inputs have, or any (zeros where one lacks them).",
            rich_help_panel=o.DATA,
        ),
    ] = "inner",
    min_genes: Annotated[
        int,
        typer.Option(
            "--min-genes", metavar="N", help="Keep cells with at least N genes; 0 is off.", rich_help_panel="Filters"
        ),
    ] = 0,
    min_counts: Annotated[
        float,
        typer.Option(
            "--min-counts", metavar="N", help="Keep cells with at least N counts; 0 is off.", rich_help_panel="Filters"
        ),
    ] = 0.0,
    max_mito: Annotated[
        float | None,
        typer.Option(
            "--max-mito",
            metavar="PERCENT",
            show_default="off",
            help="Keep cells with at most this percentage of mitochondrial counts.",
            rich_help_panel="Filters",
        ),
    ] = None,
    min_cells: Annotated[
        int,
        typer.Option(
            "--min-cells",
            metavar="N",
            help="Keep genes found in at least N of the cells kept; 0 is off.",
            rich_help_panel="Filters",
        ),
    ] = 0,
    mito_prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--mito-prefix",
            metavar="TEXT",
            show_default="MT-, mt-",
            help="How names of mitochondrial genes begin; may be repeated.",
            rich_help_panel="Filters",
        ),
    ] = None,
    gene_filter: Annotated[
        Literal["markermap"] | None,
        typer.Option(
            "--gene-filter",
            show_default="off",
            help="Drop genes of general function, rare in every class, or common in half of them (MarkerMap paper).",
            rich_help_panel="Genes",
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            metavar="COLUMN",
            help="Column of obs with the classes; for --gene-filter.",
            rich_help_panel="Genes",
        ),
    ] = None,
    housekeeping: Annotated[
        Path | None,
        typer.Option(
            "--housekeeping",
            metavar="FILE",
            help="House-keeping genes, one a line, which --gene-filter also drops.",
            rich_help_panel="Genes",
        ),
    ] = None,
    train_cells: Annotated[
        Path | None,
        typer.Option(
            "--train-cells",
            metavar="FILE",
            show_default="all cells",
            help="Cells that --gene-filter, --hvg and --min-cells go by, one name a line.",
            rich_help_panel="Genes",
        ),
    ] = None,
    programs: Annotated[
        Path | None,
        typer.Option(
            "--programs",
            metavar="FILE.npz",
            help="Drop genes in none of these programs, before variable genes are sought.",
            rich_help_panel="Genes",
        ),
    ] = None,
    hvg: Annotated[
        int | None,
        typer.Option(
            "--hvg",
            metavar="N",
            show_default="all genes",
            help="Keep the N most variable genes.",
            rich_help_panel="Genes",
        ),
    ] = None,
    hvg_flavor: Annotated[
        Literal["seurat_v3", "seurat", "cell_ranger"],
        typer.Option("--hvg-flavor", help="How scanpy ranks variable genes.", rich_help_panel="Genes"),
    ] = "seurat_v3",
    hvg_batch_key: Annotated[
        str | None,
        typer.Option(
            "--hvg-batch-key",
            metavar="COLUMN",
            show_default="--batch-key if it is there",
            help="Column of obs; genes are ranked within each of its batches.",
            rich_help_panel="Genes",
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Also write log(1 + counts per 10,000) to layer log1p; X stays raw.",
            rich_help_panel="Genes",
        ),
    ] = False,
    log_base: Annotated[
        Literal["e", "2", "10"],
        typer.Option("--log-base", help="Base of the logarithm of --normalize.", rich_help_panel="Genes"),
    ] = "e",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Raw counts in any form to one h5ad: merged by gene name, QC columns, filters, variable genes.

    X of the output holds the raw counts. QC columns have scanpy's names.
    """
    options = begin(ctx, needs=("inputs", "output"))
    from scmap_cli.stages.preprocess_rna import preprocess_rna

    preprocess_rna(**options)
    finish(options, "output", "plot")
