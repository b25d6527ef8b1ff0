"""``scmap train markermap``; the defaults are those of ``MarkerMapConfig`` and the stage, which a test holds."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from scmap_cli.cli import marker_options as m
from scmap_cli.cli import options as o
from scmap_cli.cli import training_options as t
from scmap_cli.cli.session import begin, finish
from scmap_cli.cli.settings import with_configs

SUMMARY = "Marker genes for labels, for rebuilding all genes, or for both."
EPILOG = """\b
Example:
  scmap train markermap rna.h5ad -o model --label-key cell_type -k 50

Pitfall: the markers are chosen by the cells of the file. To score them on others, give the training cells alone by
--train-cells, or let `evaluate markers --method markermap` choose and score.
"""


def verb(
    ctx: typer.Context,
    input: o.RnaInput = None,
    output: t.ModelOutput = None,
    label_key: o.LabelColumn = None,
    exclude_labels: o.ExcludeLabels = None,
    train_cells: m.TrainCells = None,
    prior: m.PriorScores = None,
    costs: m.GeneCosts = None,
    force_in: m.ForceIn = None,
    force_out: m.ForceOut = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    metrics: t.Metrics = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="Number of markers.", rich_help_panel=o.MODEL)] = 50,
    mode: Annotated[
        Literal["supervised", "unsupervised", "joint"],
        typer.Option(
            "--mode",
            help="supervised: tell the labels. unsupervised: rebuild all genes. joint: both.",
            rich_help_panel=o.MODEL,
        ),
    ] = "supervised",
    tradeoff: Annotated[
        float,
        typer.Option(
            "--tradeoff",
            metavar="SHARE",
            help="Weight alpha of the reconstruction in the joint mode.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.6,
    loss_scale: Annotated[
        Literal["per-gene", "sum"],
        typer.Option(
            "--loss-scale",
            help="per-gene: reconstruction is a mean over genes. sum: a sum, as released.",
            rich_help_panel=o.MODEL,
        ),
    ] = "per-gene",
    direct_share: Annotated[
        float,
        typer.Option(
            "--direct-share",
            metavar="SHARE",
            help="Share of the loss taken on the masked genes themselves; the paper has none.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.9,
    width: Annotated[
        int, typer.Option("--width", metavar="N", help="Width of the hidden layers.", rich_help_panel=o.MODEL)
    ] = 64,
    latent: t.Latent = 16,
    logits: Annotated[
        Literal["network", "free"],
        typer.Option(
            "--logits",
            help="network: logits by cell, averaged over the batch. free: one parameter a gene.",
            rich_help_panel=o.MODEL,
        ),
    ] = "network",
    momentum: Annotated[
        float,
        typer.Option(
            "--momentum",
            metavar="SHARE",
            help="Weight beta of earlier batches in the running logits.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.95,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="X", help="First temperature.", rich_help_panel=o.MODEL)
    ] = 2.0,
    final_temperature: Annotated[
        float,
        typer.Option(
            "--final-temperature", metavar="X", help="Temperature before the mask is hard.", rich_help_panel=o.MODEL
        ),
    ] = 0.02,
    anneal_epochs: Annotated[
        float,
        typer.Option(
            "--anneal-epochs",
            metavar="N",
            help="Epochs until the mask is hard; at most two thirds of --epochs.",
            rich_help_panel=o.MODEL,
        ),
    ] = 40.0,
    gene_share: Annotated[
        float,
        typer.Option(
            "--gene-share",
            metavar="SHARE",
            help="Share of the genes that a step rebuilds while the mask is soft, drawn anew each step.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.25,
    kl_weight: Annotated[
        float,
        typer.Option(
            "--kl-weight",
            metavar="X",
            help="Weight of the divergence of the latent variables.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.1,
    rebuild_by: Annotated[
        Literal["squared", "gaussian"],
        typer.Option(
            "--rebuild-by",
            help="squared: means by squared errors, variances after. gaussian: both at once, as released.",
            rich_help_panel=o.MODEL,
        ),
    ] = "squared",
    prior_weight: Annotated[
        float,
        typer.Option("--prior-weight", metavar="X", help="Weight of --prior.", rich_help_panel=o.MODEL),
    ] = 1.0,
    cost_weight: Annotated[
        float,
        typer.Option(
            "--cost-weight", metavar="X", help="Weight of the mean of --costs in the loss.", rich_help_panel=o.MODEL
        ),
    ] = 1.0,
    epochs: t.Epochs = 60,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            show_default="256, less below 2,048 cells",
            help="Cells per step and process; lower it if memory runs out.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    lr: t.Lr = 5e-3,
    adam_eps: t.AdamEps = 1e-8,
    weight_decay: t.WeightDecay = 0.0,
    validation_share: t.ValidationShare = 0.1,
    patience: t.Patience = 8,
    lr_patience: t.LrPatience = 2,
    lr_factor: t.LrFactor = 0.3,
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
    """Marker genes for labels, for rebuilding all genes, or for both (MarkerMap), from raw counts.

    MODEL_DIR gets the weights, the genes in markers.tsv, scores and the loss curve. A run stopped by SIGTERM, SIGUSR1
    or Ctrl-C saves its state and exits 75; the same command goes on from there.
    """
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train_markermap import train_markermap

    train_markermap(**options)
    finish(options)
