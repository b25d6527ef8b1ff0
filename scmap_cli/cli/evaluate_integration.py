"""``scmap evaluate integration``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.evaluate_compare import run_compare
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "Mixing of batches and keeping of labels: the nine scIB scores."
EPILOG = """\b
Example:
  scmap evaluate integration joined.h5ad -o scores.json --batch-key batch --label-key cell_type --baseline pca,harmony

Pitfall: labels that are in one batch only cannot be mixed; kbet and batch_asw leave them out, ilisi and pcr do not.
Compare methods on the same cells, and with `--baseline raw,pca`, not with 1.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...",
            show_default=False,
            help="h5ad or npz files with embeddings, labels and batches; with --compare, JSON files of earlier runs.",
        ),
    ] = None,
    output: s.ScoresOutput = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the scores and batch shares.", rich_help_panel=o.DATA),
    ] = None,
    compare: s.Compare = False,
    label_key: o.LabelKey = None,
    batch_key: o.NeededBatchKey = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            "--embedding",
            metavar="KEY",
            show_default="all that scmap wrote",
            help="Key of obsm (of an npz, array name); may be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    layer: o.Layer = None,
    exclude_labels: o.ExcludeLabels = None,
    exclude_cells: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude-cells",
            metavar="COLUMN=VALUE",
            show_default="none",
            help="Leave cells with this value out, such as condition=STIM; may be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    max_cells: s.MaxCells = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="NAME[,NAME]",
            show_default="none",
            help="Score these of the raw counts beside: raw, pca, harmony, lsi, lsi-harmony.",
            rich_help_panel=o.SCORES,
        ),
    ] = None,
    before: Annotated[
        str,
        typer.Option(
            "--before",
            metavar="pca|lsi|KEY",
            help="What PC regression compares with: pca or lsi of the raw counts, or a key of obsm.",
            rich_help_panel=o.SCORES,
        ),
    ] = "pca",
    components: Annotated[
        int,
        typer.Option(
            "--components", metavar="N", help="Dimensions of baselines and of --before.", rich_help_panel=o.SCORES
        ),
    ] = 50,
    subsamples: s.Subsamples = 0,
    resolutions: Annotated[
        str | None,
        typer.Option(
            "--resolutions",
            metavar=o.NUMBERS,
            show_default="0.2 to 2 by 0.2",
            help="Resolutions tried for NMI and ARI.",
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
    """Mixing of batches (PC regression, batch ASW, kBET, graph connectivity, iLISI) and keeping of labels.

    The latter by cLISI, NMI, ARI and label ASW; all from 0 to 1 (best), with two overall scores, as JSON.
    """
    if compare:
        run_compare(ctx, "integration")
        return
    options = begin(ctx, needs=("inputs", "label_key", "batch_key"), text_output=True)
    del options["compare"]
    if resolutions is not None:
        options["resolutions"] = o.floats(resolutions, "--resolutions")
    if baseline is not None:
        options["baseline"] = o.names(baseline)
    from scmap_cli.stages.evaluate_integration import evaluate_integration
    from scmap_cli.stages.scores import render

    result = evaluate_integration(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "plot")
