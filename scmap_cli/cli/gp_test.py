"""``scmap gp-test``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "Gene programs that differ between groups of cells."
EPILOG = """\b
Example:
  scmap gp-test mapped-model mapped.h5ad -o - --groupby stim --group STIM --against CTRL | head -5

Pitfall: p is the posterior probability that a cell of the group has the larger value; it is no significance value, and
no correction for many tests is made. se is the error of sampling pairs of cells alone.
"""
_CONTRAST = "Comparison"


def verb(
    ctx: typer.Context,
    model_dir: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL_DIR", show_default=False, help="expiMap model, trained or mapped."),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...", show_default=False, help="Raw counts of one or several files; genes matched by name."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.tsv",
            help="A row a program and comparison; - for stdout. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    json_output: Annotated[
        Path | None,
        typer.Option(
            "--json-output", metavar="FILE.json", help="Also write everything as JSON.", rich_help_panel=o.DATA
        ),
    ] = None,
    overlap_output: Annotated[
        Path | None,
        typer.Option(
            "--overlap-output",
            metavar="FILE.tsv",
            help="Also write shared genes, Jaccard index and correlation of scores of each pair of passing programs.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    genes_output: Annotated[
        Path | None,
        typer.Option(
            "--genes-output",
            metavar="FILE.tsv",
            help="Also write the genes of passing programs with importance and expression on both sides.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw the first comparison: ranked factors and the leading programs.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: Annotated[
        str | None,
        typer.Option(
            "--batch-key",
            metavar="COLUMN",
            show_default="scmap_batch, else that of the training",
            help="Column of obs with the batches.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    min_overlap: o.MinOverlap = 0.5,
    missing: o.Missing = None,
    groupby: Annotated[
        str | None,
        typer.Option(
            "--groupby",
            metavar="COLUMN",
            show_default="the files, if there are several",
            help="Column of obs with the groups.",
            rich_help_panel=_CONTRAST,
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="NAME",
            show_default="every group",
            help="Group to test; may be repeated.",
            rich_help_panel=_CONTRAST,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="NAME|rest",
            show_default="rest, all other cells",
            help="What to compare with.",
            rich_help_panel=_CONTRAST,
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--within", metavar="COLUMN", help="Test within each level of this column.", rich_help_panel=_CONTRAST
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="X",
            help="|log Bayes factor| from which a program passes.",
            rich_help_panel=_CONTRAST,
        ),
    ] = 2.3,
    gene_set_test: Annotated[
        str | None,
        typer.Option(
            "--gene-set-test",
            metavar="NAME[,NAME]",
            show_default="none",
            help="Test the programs' gene sets beside, on log counts without the model: fry (does a set change?), "
            "camera (more than other genes?).",
            rich_help_panel=_CONTRAST,
        ),
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(
            "--pairs",
            metavar="N",
            help="Pairs of cells to sample where there are more than --exact-pairs.",
            rich_help_panel=_CONTRAST,
        ),
    ] = 50_000,
    exact_pairs: Annotated[
        int,
        typer.Option(
            "--exact-pairs", metavar="N", help="Compare all pairs up to this many.", rich_help_panel=_CONTRAST
        ),
    ] = 400_000,
    batch_size: o.CellsAtOnce = 2048,
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
    """Bayes factors of gene programs between groups of cells, from the posteriors of an expiMap model.

    The table has the strongest programs first; inactive programs are listed without figures.
    """
    options = begin(ctx, needs=("model_dir", "inputs", "output"), text_output=True)
    if gene_set_test is not None:
        options["gene_set_test"] = o.names(gene_set_test)
    from scmap_cli.stages.gp_test import gp_test

    result = gp_test(**options)
    if str(output) == "-" and not dry_run:
        emit(result["table"])
    finish(options, "output", "json_output", "overlap_output", "genes_output", "plot")
