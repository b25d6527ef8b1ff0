"""``scmap train expresser``; the defaults are those of ``ExpresserConfig`` and the stage, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import training_options as t
from scmap_cli.cli.session import begin, finish, refuse
from scmap_cli.cli.settings import with_configs

SUMMARY = "Gene embeddings and imputation from a corpus."
EPILOG = """\b
Example:
  scmap train expresser corpus.zarr -o model --preset thesis --precision bf16 --device cuda

Pitfall: the model predicts the value of a gene given that it is expressed. It cannot tell true zeros from dropouts.
"""


def verb(
    ctx: typer.Context,
    input: Annotated[
        Path | None,
        typer.Argument(metavar="CORPUS.zarr", show_default=False, help="Folder that `scmap preprocess corpus` wrote."),
    ] = None,
    output: t.ModelOutput = None,
    exclude_studies: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude-studies",
            metavar="NAME",
            show_default="none",
            help="Study that is not trained on; may be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--start-from",
            metavar="MODEL_DIR",
            show_default="random weights",
            help="Fine-tune this model, of the same genes and sizes.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    metrics: t.Metrics = None,
    preset: Annotated[
        Literal["tiny", "thesis", "wide"],
        typer.Option(
            "--preset",
            help="Layers x heads, width: tiny 2 x 2, 64; thesis 12 x 4, 200; wide 12 x 4, 256.",
            rich_help_panel=o.MODEL,
        ),
    ] = "thesis",
    width: Annotated[
        int, typer.Option("--width", metavar="N", help="Width of the tokens; 0: the preset's.", rich_help_panel=o.MODEL)
    ] = 0,
    layers: Annotated[
        int, typer.Option("--layers", metavar="N", help="Encoder layers; 0: the preset's.", rich_help_panel=o.MODEL)
    ] = 0,
    heads: Annotated[
        int, typer.Option("--heads", metavar="N", help="Attention heads; 0: the preset's.", rich_help_panel=o.MODEL)
    ] = 0,
    bins: Annotated[
        int, typer.Option("--bins", metavar="N", help="Bins of a cell's values.", rich_help_panel=o.MODEL)
    ] = 50,
    binning: Annotated[
        Literal["width", "quantile"],
        typer.Option(
            "--binning",
            help="Bins of equal width up to the cell's largest value, or of equal shares of its values.",
            rich_help_panel=o.MODEL,
        ),
    ] = "width",
    mask_low: Annotated[
        float,
        typer.Option(
            "--mask-low", metavar="SHARE", help="Smallest share of a cell's genes masked.", rich_help_panel=o.MODEL
        ),
    ] = 0.1,
    mask_high: Annotated[
        float,
        typer.Option(
            "--mask-high",
            metavar="SHARE",
            help="Largest share; each cell and draw has its own.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.5,
    draws: Annotated[
        int,
        typer.Option(
            "--draws", metavar="N", help="Masks drawn for each pass through the encoder.", rich_help_panel=o.MODEL
        ),
    ] = 4,
    max_genes: Annotated[
        int,
        typer.Option(
            "--max-genes",
            metavar="N",
            help="Most genes of a cell in a step; of more, a random subset each epoch.",
            rich_help_panel=o.MODEL,
        ),
    ] = 1100,
    decoder: Annotated[
        bool,
        typer.Option(
            "--decoder/--no-decoder",
            help="Expression decoder, or an encoder layer with values in its place (ablation).",
            rich_help_panel=o.MODEL,
        ),
    ] = True,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual/--no-residual",
            help="Whether the decoder adds the masked gene's own vector.",
            rich_help_panel=o.MODEL,
        ),
    ] = True,
    tell_scale: Annotated[
        bool,
        typer.Option(
            "--tell-scale/--no-tell-scale",
            help="Whether the head is told the value of a single count, beside the cell's largest.",
            rich_help_panel=o.MODEL,
        ),
    ] = True,
    gene_start: Annotated[
        Literal["co-expression", "random"],
        typer.Option(
            "--gene-start",
            help="What gene tokens begin as: the genes' co-expression in the training cells, or random (the thesis).",
            rich_help_panel=o.MODEL,
        ),
    ] = "co-expression",
    leaky: Annotated[
        bool,
        typer.Option(
            "--leaky",
            help="Scale, bins and total of the whole cell, masked genes included, as the thesis's text.",
            rich_help_panel=o.MODEL,
        ),
    ] = False,
    epochs: t.Epochs = 6,
    batch_size: t.BatchSize = 32,
    accumulate: Annotated[
        int,
        typer.Option("--accumulate", metavar="N", help="Batches added up for a step.", rich_help_panel=o.TRAINING),
    ] = 1,
    lr: t.Lr = 1e-4,
    optimizer: Annotated[
        Literal["adam", "adamw"],
        typer.Option("--optimizer", help="adamw decays weights apart from the gradient.", rich_help_panel=o.TRAINING),
    ] = "adamw",
    schedule: Annotated[
        Literal["plateau", "cosine"],
        typer.Option("--schedule", help="cosine: the rate falls to a tenth by the end.", rich_help_panel=o.TRAINING),
    ] = "cosine",
    warmup: Annotated[
        float,
        typer.Option(
            "--warmup",
            metavar="SHARE",
            help="Share of all steps over which the learning rate rises.",
            rich_help_panel=o.TRAINING,
        ),
    ] = 0.05,
    adam_eps: t.AdamEps = 1e-8,
    weight_decay: t.WeightDecay = 0.01,
    validation_share: t.ValidationShare = 0.05,
    patience: t.Patience = 0,
    lr_patience: t.LrPatience = 0,
    lr_factor: t.LrFactor = 0.1,
    sampling: t.Sampling = "shuffle",
    precision: t.Precision = "fp32",
    grad_clip: t.GradClip = 1.0,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the feed-forward half of each layer, attention is fused anyway (needs a C++ compiler).",
            rich_help_panel=o.TRAINING,
        ),
    ] = False,
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
    """Gene embeddings and imputation, by predicting masked expression values of many studies (Expresser).

    MODEL_DIR gets the weights, scores and the loss curve. A run stopped by SIGTERM, SIGUSR1 or Ctrl-C saves its state
    and exits 75; the same command goes on from there, in the middle of an epoch too. Several processes: torchrun.
    """
    if start_from is not None:
        refuse(ctx, ("gene_start",), "is of a training that begins anew, not of --start-from")
    if not decoder:
        refuse(ctx, ("residual",), "is of the decoder")
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train_expresser import train_expresser

    train_expresser(**options)
    finish(options)
