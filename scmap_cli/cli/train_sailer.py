"""``scmap train sailer``; the defaults are those of ``SailerConfig`` and the stage, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import peak_options as p
from scmap_cli.cli import training_options as t
from scmap_cli.cli.session import begin, finish
from scmap_cli.cli.settings import with_configs

SUMMARY = "Embedding of scATAC peaks that is free of depth and batch."
EPILOG = """\b
Example:
  scmap train sailer atac.h5ad -o model --batch-key sample

Pitfall: when the peaks are a subset, their number of open ones is a poor measure of depth; name the column with the
fragments of each cell by --depth-key.
"""


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", show_default=False, help="Cells x peaks, counts or 0/1: h5ad."),
    ] = None,
    output: t.ModelOutput = None,
    batch_key: o.BatchKey = None,
    depth_key: p.DepthKey = None,
    covariates: p.Covariates = None,
    layer: o.Layer = None,
    metrics: t.Metrics = None,
    hidden: Annotated[
        str,
        typer.Option(
            "--hidden",
            metavar=o.WIDTHS,
            help="Widths of the encoder's layers; the decoder has them in reverse.",
            rich_help_panel=o.MODEL,
        ),
    ] = "1000,100",
    latent: t.Latent = 20,
    thinning: p.Thinning = 0.8,
    peak_share: p.PeakShare = "auto",
    invariance: p.Invariance = "1",
    invariance_bound: p.InvarianceBound = "pairwise",
    positive_weight: p.PositiveWeight = "8",
    kl_weight: p.KlWeight = 1.0,
    warmup_epochs: p.WarmupEpochs = 5.0,
    cycle_epochs: p.CycleEpochs = 10.0,
    cycles: p.Cycles = 2,
    epochs: t.Epochs = 100,
    batch_size: t.BatchSize = 400,
    lr: t.Lr = 1e-3,
    adam_eps: t.AdamEps = 1e-8,
    weight_decay: t.WeightDecay = 5e-4,
    validation_share: t.ValidationShare = 0.1,
    patience: t.Patience = 10,
    lr_patience: t.LrPatience = 5,
    lr_factor: t.LrFactor = 0.1,
    sampling: t.Sampling = "shuffle",
    precision: t.Precision = "fp32",
    grad_clip: t.GradClip = 0.0,
    checkpoint_minutes: t.CheckpointMinutes = 7.0,
    resume: t.Resume = "auto",
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
    """Embedding of scATAC peaks that is free of depth and batch (SAILER), with a decoder for imputation.

    MODEL_DIR gets the weights, scores and the loss curve. A run stopped by SIGTERM, SIGUSR1 or Ctrl-C saves its state
    and exits 75; the same command goes on from there.
    """
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train_sailer import train_sailer

    train_sailer(**options)
    finish(options)
