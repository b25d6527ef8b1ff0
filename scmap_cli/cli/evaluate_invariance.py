"""``scmap evaluate invariance``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.evaluate_compare import run_compare
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "What embeddings still tell of depth and batch."
EPILOG = """\b
Example:
  scmap evaluate invariance embedded.h5ad --batch-key batch -o - | jq '.results[0].depth_mi.mean'

Pitfall: cell types that differ in true depth, or that are not in all batches, make mutual information that no method
should remove; compare methods on the same cells, and with what --label-key finds, not with 0.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", show_default=False, help="h5ad or npz files with embeddings."),
    ] = None,
    output: s.ScoresOutput = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw what each dimension tells.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    compare: s.Compare = False,
    embedding: s.Embedding = None,
    depth_key: Annotated[
        str | None,
        typer.Option(
            "--depth-key",
            metavar="COLUMN",
            show_default="n_fragments, depth or total_counts, else sums of the counts",
            help="Column of obs with the raw depth.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: o.BatchKey = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            metavar="COLUMN",
            help="Column of obs with cell types: also tell what shows of depth and batch through these alone.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_estimator: Annotated[
        Literal["classification", "regression"],
        typer.Option(
            "--batch-estimator",
            help="Estimator for batches: for categories, or as in the SAILER thesis on the batch's number.",
            rich_help_panel="Estimates",
        ),
    ] = "classification",
    mi_cells: Annotated[
        int | None,
        typer.Option(
            "--mi-cells",
            metavar="N",
            show_default="all",
            help="Estimate mutual information on a seeded sample of N cells.",
            rich_help_panel="Estimates",
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
    """What embeddings still tell of depth and batch: mutual information by dimension, batches among 50 neighbours.

    Mutual information is in nats, by nearest neighbours (Kraskov et al.), mean and largest over the dimensions. With
    --label-key it is taken a second time with depths and batches dealt out anew within each label.
    """
    if compare:
        run_compare(ctx, "invariance")
        return
    options = begin(ctx, needs=("inputs",), text_output=True)
    del options["compare"]
    from scmap_cli.stages.evaluate_invariance import evaluate_invariance
    from scmap_cli.stages.scores import render

    result = evaluate_invariance(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "plot")
