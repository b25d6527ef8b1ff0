"""``scmap train sailerx``; the defaults are those of ``SailerXConfig`` and the stage, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish
from scmap_cli.cli.settings import with_configs

SUMMARY = "Joint embedding of paired RNA and ATAC, and of ATAC-only cells."
EPILOG = """\b
Example:
  scmap train sailerx multiome.h5ad -o model --batch-key batch

Pitfall: a reference that was made anew, even of the same cells, has other axes. Embed with the file that was trained
on, or with a reference of the same space.
"""


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", show_default=False, help="h5ad of `preprocess multiome`."),
    ] = None,
    output: o.ModelOutput = None,
    reference_key: Annotated[
        str,
        typer.Option(
            "--reference-key", metavar="KEY", help="Key of obsm with the embedding of the RNA.", rich_help_panel=o.DATA
        ),
    ] = "X_rna",
    batch_key: o.BatchKey = None,
    depth_key: Annotated[
        str | None,
        typer.Option(
            "--depth-key",
            metavar="COLUMN",
            show_default="number of open peaks",
            help="Column of obs with the depth of each cell, such as its fragments.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    covariates: Annotated[
        list[str] | None,
        typer.Option(
            "--covariates",
            metavar="COLUMN",
            show_default="none",
            help="Further column of obs to be free of, numbers or categories; may be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    layer: o.Layer = None,
    metrics: o.Metrics = None,
    hidden: Annotated[
        str,
        typer.Option(
            "--hidden",
            metavar=o.WIDTHS,
            help="Units of each chromosome in the encoder's layers; the decoder has them in reverse.",
            rich_help_panel=o.MODEL,
        ),
    ] = "64,32",
    latent: Annotated[
        int, typer.Option("--latent", metavar="N", help="Latent dimensions.", rich_help_panel=o.MODEL)
    ] = 50,
    alignment_weight: Annotated[
        str,
        typer.Option(
            "--alignment-weight",
            metavar="auto|X",
            help="Weight gamma of the alignment; auto finds the elbow of its final value by short trials.",
            rich_help_panel=o.MODEL,
        ),
    ] = "60000",
    depth_weights: Annotated[
        Literal["robust", "released", "none"],
        typer.Option(
            "--depth-weights",
            help="Cells' weights in it by RNA over ATAC depth: between percentiles, between extremes, or equal.",
            rich_help_panel=o.MODEL,
        ),
    ] = "robust",
    reference_dropout: Annotated[
        float,
        typer.Option(
            "--reference-dropout",
            metavar="SHARE",
            help="Share of paired cells whose RNA is hidden from the encoder in a step; 1 hides it for good (thesis).",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.3,
    reference_width: Annotated[
        int,
        typer.Option(
            "--reference-width", metavar="N", help="Units of the encoder's block for the RNA.", rich_help_panel=o.MODEL
        ),
    ] = 128,
    thinning: Annotated[
        float,
        typer.Option(
            "--thinning",
            metavar="SHARE",
            help="Largest share of a cell's open peaks hidden from the encoder in a training step; 0 is off.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.5,
    peak_share: Annotated[
        float,
        typer.Option(
            "--peak-share",
            metavar="SHARE",
            help="Share of the peaks whose likelihood a step looks at, drawn anew each step.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.25,
    invariance: Annotated[
        float,
        typer.Option(
            "--invariance", metavar="X", help="Weight lambda of the invariance term.", rich_help_panel=o.MODEL
        ),
    ] = 1.0,
    invariance_bound: Annotated[
        Literal["pairwise", "mixture"],
        typer.Option(
            "--invariance-bound",
            help="pairwise: mean divergence between cells (thesis). mixture: from their mixture, tighter.",
            rich_help_panel=o.MODEL,
        ),
    ] = "pairwise",
    positive_weight: Annotated[
        str,
        typer.Option(
            "--positive-weight",
            metavar="none|auto|X",
            help="Weight omega of open peaks; auto is closed over open entries.",
            rich_help_panel=o.MODEL,
        ),
    ] = "8",
    kl_weight: Annotated[
        float,
        typer.Option(
            "--kl-weight", metavar="X", help="Final weight beta of both divergences.", rich_help_panel=o.MODEL
        ),
    ] = 1.0,
    warmup_epochs: Annotated[
        float,
        typer.Option(
            "--warmup-epochs", metavar="N", help="First epochs, without divergences.", rich_help_panel=o.MODEL
        ),
    ] = 5.0,
    cycle_epochs: Annotated[
        float,
        typer.Option(
            "--cycle-epochs",
            metavar="N",
            help="Epochs of a cycle: beta rises over the first half of it.",
            rich_help_panel=o.MODEL,
        ),
    ] = 10.0,
    cycles: Annotated[
        int,
        typer.Option("--cycles", metavar="N", help="Cycles, after which beta stays.", rich_help_panel=o.MODEL),
    ] = 2,
    epochs: o.Epochs = 100,
    batch_size: o.BatchSize = 400,
    lr: o.Lr = 2e-3,
    adam_eps: o.AdamEps = 1e-8,
    weight_decay: o.WeightDecay = 5e-4,
    validation_share: o.ValidationShare = 0.1,
    patience: o.Patience = 10,
    lr_patience: o.LrPatience = 5,
    lr_factor: o.LrFactor = 0.1,
    sampling: o.Sampling = "shuffle",
    precision: o.Precision = "fp32",
    grad_clip: o.GradClip = 0.0,
    checkpoint_minutes: o.CheckpointMinutes = 7.0,
    resume: o.Resume = "auto",
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
    """Joint embedding of paired RNA and ATAC, in which ATAC-only cells take part (SAILERX), with a decoder of peaks.

    INPUT holds peaks, an embedding of the RNA in obsm (NaN for cells without) and depths in obs. MODEL_DIR gets the
    weights, scores and the loss curve. A run stopped by SIGTERM, SIGUSR1 or Ctrl-C saves its state and exits 75; the
    same command goes on from there.
    """
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train_sailerx import train_sailerx

    train_sailerx(**options)
    finish(options)
