"""``scmap evaluate clustering``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.evaluate_compare import run_compare
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "Agreement of embeddings with labels."
EPILOG = """\b
Example:
  scmap evaluate clustering embedded.h5ad --label-key cell_type -o - | jq '.results[0].best_nmi'

Pitfall: best_ari and best_nmi are maxima over the grid and flatter any method; compare methods by the same grid, or by
`matched`, where the number of clusters is nearest to the number of labels.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", show_default=False, help="h5ad or npz files with embeddings and labels."),
    ] = None,
    output: s.ScoresOutput = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the scores of partitions.", rich_help_panel=o.DATA),
    ] = None,
    compare: s.Compare = False,
    label_key: o.LabelKey = None,
    embedding: s.Embedding = None,
    batch_key: o.BatchKey = None,
    exclude_labels: o.ExcludeLabels = None,
    max_cells: s.MaxCells = None,
    subsamples: s.Subsamples = 0,
    k: Annotated[
        str,
        typer.Option(
            "-k", "--k", metavar=o.WIDTHS, help="Neighbours of the graphs that are clustered.", rich_help_panel=o.GRID
        ),
    ] = "15,30",
    resolutions: Annotated[
        str | None,
        typer.Option(
            "--resolutions",
            metavar=o.NUMBERS,
            show_default="15 from 0.1 to 3, geometric",
            help="Resolutions tried on each graph.",
            rich_help_panel=o.GRID,
        ),
    ] = None,
    cluster_method: s.ClusterMethod = "leiden",
    leiden_backend: o.ClusterBackend = "igraph",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Agreement of embeddings with labels: ARI, NMI, silhouette and neighbours' labels, as JSON.

    With --batch-key also the mixing of batches among the 50 nearest neighbours.
    """
    if compare:
        run_compare(ctx, "clustering")
        return
    options = begin(ctx, needs=("inputs", "label_key"), text_output=True)
    del options["compare"]
    options["k"] = o.integers(k, "-k")
    if resolutions is not None:
        options["resolutions"] = o.floats(resolutions, "--resolutions")
    from scmap_cli.stages.evaluate_clustering import evaluate_clustering
    from scmap_cli.stages.scores import render

    result = evaluate_clustering(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "plot")
