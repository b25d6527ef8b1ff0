"""``scmap preprocess programs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Gene sets to a mask over the genes of a data set."
EPILOG = """\b
Example:
  scmap preprocess programs reactome.gmt -o programs.npz --genes rna.h5ad

Pitfall: programs are counted over the genes of one h5ad. After `preprocess rna --hvg` run this again on the smaller
file: a set that had 30 genes may be left with 3.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="Gene sets: GMT, TSV of program and gene, or a 0/1 table (.gz).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.npz", help="File to write; required.", rich_help_panel=o.DATA),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.png", help="Draw the sizes of the sets before and after.", rich_help_panel=o.DATA
        ),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            "--genes",
            metavar="FILE.h5ad",
            help="File whose genes, in its order, the programs are made for; required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    gene_column: o.GeneColumn = None,
    form: Annotated[
        Literal["auto", "gmt", "tsv", "matrix"],
        typer.Option("--form", help="Layout of the inputs.", rich_help_panel=o.DATA),
    ] = "auto",
    case: Annotated[
        Literal["auto", "exact", "upper"],
        typer.Option(
            "--case",
            help="How gene names are compared. auto ignores case only where exact spelling finds next to nothing.",
            rich_help_panel=o.DATA,
        ),
    ] = "auto",
    min_genes: Annotated[
        int,
        typer.Option(
            "--min-genes",
            metavar="N",
            help="Keep sets with at least N of the data's genes (N included).",
            rich_help_panel="Filters",
        ),
    ] = 13,
    max_genes: Annotated[
        int | None,
        typer.Option(
            "--max-genes",
            metavar="N",
            show_default="no limit",
            help="Keep sets with at most N of the data's genes (N included).",
            rich_help_panel="Filters",
        ),
    ] = None,
    min_genes_before: Annotated[
        int | None,
        typer.Option(
            "--min-genes-before",
            metavar="N",
            show_default="no limit",
            help="Keep sets with at least N genes in the file (N included).",
            rich_help_panel="Filters",
        ),
    ] = None,
    max_genes_before: Annotated[
        int | None,
        typer.Option(
            "--max-genes-before",
            metavar="N",
            show_default="no limit",
            help="Keep sets with at most N genes in the file (N included).",
            rich_help_panel="Filters",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="PATTERN",
            show_default="all",
            help="Keep sets whose name fits a shell pattern such as 'REACTOME_*'; may be repeated.",
            rich_help_panel="Filters",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="PATTERN",
            show_default="none",
            help="Drop sets whose name fits a shell pattern; may be repeated.",
            rich_help_panel="Filters",
        ),
    ] = None,
    varm_output: Annotated[
        Path | None,
        typer.Option(
            "--varm-output",
            metavar="FILE.h5ad",
            help="Also write the h5ad with the programs in varm['scmap_programs'].",
            rich_help_panel=o.DATA,
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
    """Gene sets to a mask of genes x programs over the genes of one data set."""
    options = begin(ctx, needs=("inputs", "output", "genes"))
    from scmap_cli.stages.preprocess_programs import preprocess_programs

    preprocess_programs(**options)
    finish(options, "output", "varm_output", "plot")
