"""``scmap preprocess corpus``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Many h5ad to one shuffled store for pretraining."
EPILOG = """\b
Example:
  scmap preprocess corpus studies/*.h5ad -o corpus.zarr --gene-table genes.tsv --biotype protein_coding

Pitfall: without --genes the list is the union of the inputs' genes, and cannot grow later: --append drops genes that
the corpus does not know.
"""
_GENES, _STORE = "Genes", "Store"


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", show_default=False, help="Raw counts, h5ad; read from disk block by block."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="CORPUS.zarr", help="Folder to write; required.", rich_help_panel=o.DATA
        ),
    ] = None,
    study: Annotated[
        list[str] | None,
        typer.Option(
            "--study",
            metavar="NAME",
            show_default="file names",
            help="Name of a study, once for each input, in their order.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    study_key: Annotated[
        str | None,
        typer.Option("--study-key", metavar="COLUMN", help="Column of obs with the studies.", rich_help_panel=o.DATA),
    ] = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    min_genes: Annotated[
        int,
        typer.Option(
            "--min-genes", metavar="N", help="Keep cells with at least N genes of the list.", rich_help_panel="Filters"
        ),
    ] = 2,
    genes: Annotated[
        Path | None,
        typer.Option(
            "--genes",
            metavar="FILE|MODEL_DIR",
            show_default="union of the inputs' genes",
            help="Gene list, one name a line, or that of a model; its order is kept.",
            rich_help_panel=_GENES,
        ),
    ] = None,
    gene_table: o.GeneTable = None,
    biotype: Annotated[
        str | None,
        typer.Option(
            "--biotype",
            metavar="NAME",
            show_default="all",
            help="Keep genes of this type of --gene-table, such as protein_coding.",
            rich_help_panel=_GENES,
        ),
    ] = None,
    min_overlap: Annotated[
        float,
        typer.Option(
            "--min-overlap",
            metavar="SHARE",
            help="Smallest share of genes in common with the list, or with the other inputs.",
            rich_help_panel=_GENES,
        ),
    ] = 0.3,
    mixed_genomes: Annotated[
        bool,
        typer.Option("--mixed-genomes", help="Take inputs whose var column genome differs.", rich_help_panel=_GENES),
    ] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add new studies to a corpus, whose genes stay.", rich_help_panel=_STORE),
    ] = False,
    part_cells: Annotated[
        int,
        typer.Option(
            "--part-cells",
            metavar="N",
            help="Cells of a part of the store, which memory holds whole.",
            rich_help_panel=_STORE,
        ),
    ] = 16384,
    block_cells: Annotated[
        int,
        typer.Option(
            "--block-cells", metavar="N", help="Cells of the blocks that are shuffled.", rich_help_panel=_STORE
        ),
    ] = 512,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Many h5ad to one shuffled store of expressed genes, for `scmap train expresser`.

    Genes are matched by name to one list. The same command goes on where a stopped one ended.
    """
    options = begin(ctx, needs=("inputs", "output"))
    from scmap_cli.stages.preprocess_corpus import preprocess_corpus

    preprocess_corpus(**options)
    finish(options, "output")
