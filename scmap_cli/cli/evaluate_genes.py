"""``scmap evaluate genes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "Gene embeddings against pairs, scores and lists of genes."
EPILOG = """\b
Example:
  scmap evaluate genes genes.npz gene2vec.txt --gene-pairs pairs.tsv -o - | jq -c '.results[] | [.embedding, .auc]'

Pitfall: on a random split of pairs the same genes are on both sides; see what is left on the gene-disjoint one, and
beside the number of partners.
"""
_TASKS, _HOW = "Tasks", "Splits and baselines"


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="TABLE...",
            show_default=False,
            help="Embeddings: npz, h5ad, text (gene, then numbers), or directories of `train expresser`.",
        ),
    ] = None,
    output: s.ScoresOutput = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the scores of every task.", rich_help_panel=o.DATA),
    ] = None,
    gene_pairs: Annotated[
        Path | None,
        typer.Option(
            "--gene-pairs",
            metavar="TSV",
            help="gene_a, gene_b, label 0 or 1; without labels unrelated pairs are drawn. One task at least is needed.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    test_pairs: Annotated[
        Path | None,
        typer.Option(
            "--test-pairs",
            metavar="TSV",
            show_default="a fifth of --gene-pairs",
            help="Pairs to test on.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option("--links", metavar="FILE", help="STRING protein links with channels.", rich_help_panel=_TASKS),
    ] = None,
    protein_names: Annotated[
        Path | None,
        typer.Option(
            "--protein-names",
            metavar="TSV",
            help="STRING protein.info: proteins and gene names of --links.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    channel: Annotated[
        str, typer.Option("--channel", metavar="COLUMN", help="Score of --links.", rich_help_panel=_TASKS)
    ] = "experimental",
    positive_above: Annotated[
        float,
        typer.Option(
            "--positive-above",
            metavar="X",
            help="Links of a higher score are related, of a lower one not.",
            rich_help_panel=_TASKS,
        ),
    ] = 200.0,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores", metavar="TSV", help="A gene and a number a line: linear regression.", rich_help_panel=_TASKS
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option("--lists", metavar="TSV", help="Name of a list and a gene a line.", rich_help_panel=_TASKS),
    ] = None,
    positive_list: Annotated[
        str | None,
        typer.Option("--positive-list", metavar="NAME", help="List of --lists.", rich_help_panel=_TASKS),
    ] = None,
    negative_list: Annotated[
        str | None,
        typer.Option("--negative-list", metavar="NAME", help="List it is told apart from.", rich_help_panel=_TASKS),
    ] = None,
    pair_splits: Annotated[
        str,
        typer.Option(
            "--pair-splits",
            metavar="NAME[,NAME]",
            help="random leaves out pairs, gene-disjoint leaves out genes.",
            rich_help_panel=_HOW,
        ),
    ] = "random,gene-disjoint",
    max_pairs: Annotated[
        int,
        typer.Option(
            "--max-pairs",
            metavar="N",
            help="Most pairs to train and to test on, seeded samples; 0: all.",
            rich_help_panel=_HOW,
        ),
    ] = 20000,
    coexpression: Annotated[
        Path | None,
        typer.Option(
            "--coexpression",
            metavar="FILE.h5ad",
            help="Counts, of which an SVD of the first table's size is scored too.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    layer: o.Layer = None,
    gene_table: o.GeneTable = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Scores of gene embeddings: related pairs, a score of genes, two lists of genes, as JSON.

    All tables are compared on the genes that all have, beside random vectors and, for pairs, the number of partners.
    """
    options = begin(ctx, needs=("inputs",), text_output=True)
    options["pair_splits"] = o.names(pair_splits)
    from scmap_cli.stages.evaluate_genes import evaluate_genes
    from scmap_cli.stages.scores import render

    result = evaluate_genes(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "plot")
