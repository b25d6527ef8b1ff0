"""``scmap evaluate imputation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import scoring_options as s
from scmap_cli.cli.evaluate_compare import run_compare
from scmap_cli.cli.session import begin, emit, finish, refuse

SUMMARY = "Imputed accessibility against bulk profiles, or expression that was withheld."
EPILOG = """\b
Example:
  scmap evaluate imputation imputed.h5ad --raw sim3.h5ad --label-key cell_type -o - | jq '.results[0].dice'
  scmap evaluate imputation model --withhold 0.1 --raw held_out.h5ad -o imputation.json

Pitfall: `best` chooses its threshold by the truth and flatters any method; compare methods by `cell` or by one
threshold, and beside `raw`. With --withhold, which of the hidden entries are scored depends on the genes that all
inputs share: compare methods within one call, or fix the genes by --features.
"""
_RULES, _HIDDEN = "Accessibility", "Withheld expression"
_OF_PROFILES = ("label_key", "truth", "open_above", "thresholds", "plot")
_OF_WITHHELD = ("features", "fit_on", "baselines", "observed_output", "genes_output", "batch_size", "device")


def verb(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMPUTED...",
            show_default=False,
            help="h5ad (X) or npz (array imputed) of imputed values; with --withhold also model directories.",
        ),
    ] = None,
    output: s.ScoresOutput = Path("-"),
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the Dice scores by type.", rich_help_panel=o.DATA),
    ] = None,
    compare: s.Compare = False,
    raw: Annotated[
        Path | None,
        typer.Option(
            "--raw",
            metavar="FILE.h5ad",
            help="Raw counts, with the labels for Dice scores; required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            metavar="COLUMN",
            help="Column of obs with the labels; required for Dice scores, not for --withhold.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
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
            "--thresholds", metavar=o.NUMBERS, help="Imputed values above these are open.", rich_help_panel=_RULES
        ),
    ] = "0.5",
    withhold_share: Annotated[
        float | None,
        typer.Option(
            "--withhold",
            metavar="SHARE",
            show_default="off",
            help="Hide this share of each cell's expressed entries of --raw and score how they are predicted.",
            rich_help_panel=_HIDDEN,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            metavar="FILE",
            show_default="those of --raw, --fit-on and all models",
            help="Genes that are scored: names, one a line, or a model directory.",
            rich_help_panel=_HIDDEN,
        ),
    ] = None,
    fit_on: Annotated[
        Path | None,
        typer.Option(
            "--fit-on",
            metavar="FILE.h5ad",
            show_default="what is left of --raw",
            help="Counts by which the baselines learn the genes' effects.",
            rich_help_panel=_HIDDEN,
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            "--baselines",
            metavar="NAME[,NAME]",
            show_default="gene-mean,additive",
            help="Of gene-mean, additive (gene + cell) and magic.",
            rich_help_panel=_HIDDEN,
        ),
    ] = None,
    observed_output: Annotated[
        Path | None,
        typer.Option(
            "--observed-output",
            metavar="FILE.h5ad",
            help="Also write the counts that are left, for other methods.",
            rich_help_panel=_HIDDEN,
        ),
    ] = None,
    genes_output: Annotated[
        Path | None,
        typer.Option(
            "--genes-output", metavar="FILE.tsv", help="Also write the scores of every gene.", rich_help_panel=_HIDDEN
        ),
    ] = None,
    batch_size: o.CellsAtOnce = 64,
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
    """Dice scores of imputed accessibility against the bulk profile of each cell's type, by type and mean, as JSON.

    Rules: raw data, values as they are, thresholds, the cell's mean, SCALE's rule, and the best single threshold,
    which no method can know.
    With --withhold: MAE and correlation of expression values that were hidden, for models, files and plain baselines.
    """
    if compare:
        run_compare(ctx, "imputation")
        return
    if withhold_share is None:
        refuse(ctx, _OF_WITHHELD, "needs --withhold")
        options = begin(ctx, needs=("inputs", "raw", "label_key"), text_output=True)
        options = {name: value for name, value in options.items() if name not in (*_OF_WITHHELD, "compare")}
        options["thresholds"] = o.floats(thresholds, "--thresholds")
    else:
        refuse(ctx, _OF_PROFILES, "is for accessibility, not for --withhold")
        options = begin(ctx, needs=("raw",), text_output=True)
        options = {name: value for name, value in options.items() if name not in (*_OF_PROFILES, "compare")}
        if baselines is not None:
            options["baselines"] = o.names(baselines)
    from scmap_cli.stages.scores import render

    if withhold_share is None:
        from scmap_cli.stages.evaluate_imputation import evaluate_imputation

        result = evaluate_imputation(**options)
    else:
        from scmap_cli.stages.evaluate_withheld import evaluate_withheld

        result = evaluate_withheld(**options)
    if str(output) == "-" and not dry_run:
        emit(render(result))
    finish(options, "output", "observed_output", "genes_output", "plot")
