"""``scmap evaluate imputation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.evaluate_compare import run_compare
from scmap_cli.cli.session import begin, emit, finish

SUMMARY = "Dice scores of imputed accessibility against bulk profiles."
EPILOG = """\b
Example:
  scmap evaluate imputation imputed.h5ad --raw sim3.h5ad --label-key cell_type -o - | jq '.results[0].dice'

Pitfall: `best` chooses its threshold by the truth and flatters any method; compare methods by `scale` or by one
threshold, and beside `raw`.
"""


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMPUTED...", show_default=False, help="h5ad (X) or npz (array imputed) of imputed values."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE.json", help="File to write; - is stdout.", rich_help_panel=o.DATA),
    ] = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the Dice scores by type.", rich_help_panel=o.DATA),
    ] = None,
    compare: o.Compare = False,
    raw: Annotated[
        Path | None,
        typer.Option(
            "--raw", metavar="FILE.h5ad", help="Raw counts, with the labels; required.", rich_help_panel=o.DATA
        ),
    ] = None,
    label_key: o.LabelKey = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth",
            metavar="TSV",
            show_default="varm scmap_bulk_open of --raw",
            help="Table of bulk signal, peaks in rows and types, named as the labels, in columns.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    open_above: Annotated[
        float,
        typer.Option(
            "--open-above", metavar="X", help="Signal of --truth above which a peak is open.", rich_help_panel=o.DATA
        ),
    ] = 0.0,
    layer: o.Layer = None,
    thresholds: Annotated[
        str,
        typer.Option(
            "--thresholds", metavar=o.NUMBERS, help="Imputed values above these are open.", rich_help_panel="Rules"
        ),
    ] = "0.5",
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Dice scores of imputed accessibility against the bulk profile of each cell's type, by type and mean, as JSON.

    Rules: raw data, values as they are, thresholds, SCALE's rule, and the best single threshold as upper reference.
    """
    if compare:
        run_compare(ctx, "imputation")
        return
    options = begin(ctx, needs=("inputs", "raw", "label_key"), text_output=True)
    del options["compare"]
    options["thresholds"] = o.floats(thresholds, "--thresholds")
    from scmap_cli.stages.evaluate import render
    from scmap_cli.stages.evaluate_imputation import evaluate_imputation

    result = evaluate_imputation(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "plot")
