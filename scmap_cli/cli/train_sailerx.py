"""``scmap train sailerx``; the defaults are those of ``SailerXConfig`` and the stage, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import peak_options as p
from scmap_cli.cli import training_options as t
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
    output: t.ModelOutput = None,
    reference_key: Annotated[
        str,
        typer.Option(
            "--reference-key", metavar="KEY", help="Key of obsm with the embedding of the RNA.", rich_help_panel=o.DATA
        ),
    ] = "X_rna",
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
            help="Units of each chromosome in the encoder's layers; the decoder has them in reverse.",
            rich_help_panel=o.MODEL,
        ),
    ] = "64,32",
    latent: t.Latent = 50,
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
    reference_agreement: Annotated[
        str,
        typer.Option(
            "--reference-agreement",
            metavar="auto|X",
            help="Weight of the divergence between paired cells' posteriors with and without their RNA; auto is 10 if "
            "some cells have none, else 0.",
            rich_help_panel=o.MODEL,
        ),
    ] = "auto",
    reference_width: Annotated[
        int,
        typer.Option(
            "--reference-width",
            metavar="N",
            help="Units of the encoder's block for the RNA.",
            rich_help_panel=o.MODEL,
        ),
    ] = 128,
    unit_length: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option(
            "--unit-length",
            help="Whether embedded cells have length one; auto is yes if some cells have no RNA.",
            rich_help_panel=o.MODEL,
        ),
    ] = "auto",
    donor_share: Annotated[
        str,
        typer.Option(
            "--donor-share",
            metavar="auto|SHARE",
            help="How far a cell without RNA is moved to the paired cell that is most like it by peaks; auto is .6 if "
            "some cells have no RNA, else 0.",
            rich_help_panel=o.MODEL,
        ),
    ] = "auto",
    thinning: p.Thinning = 0.5,
    peak_share: p.PeakShare = "0.25",
    invariance: p.Invariance = "1",
    invariance_bound: p.InvarianceBound = "pairwise",
    positive_weight: p.PositiveWeight = "8",
    kl_weight: p.KlWeight = 1.0,
    warmup_epochs: p.WarmupEpochs = 5.0,
    cycle_epochs: p.CycleEpochs = 10.0,
    cycles: p.Cycles = 2,
    epochs: t.Epochs = 100,
    batch_size: t.BatchSize = 400,
    lr: t.Lr = 2e-3,
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
    """Joint embedding of paired RNA and ATAC, in which ATAC-only cells take part (SAILERX), with a decoder of peaks.

    INPUT holds peaks, an embedding of the RNA in obsm (NaN for cells without) and depths in obs. MODEL_DIR gets the
    weights, scores and the loss curve. A run stopped by SIGTERM, SIGUSR1 or Ctrl-C saves its state and exits 75; the
    same command goes on from there.
    """
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train_sailerx import train_sailerx

    train_sailerx(**options)
    finish(options)
