"""``scmap train expimap``; the defaults are those of ``ExpiMapConfig`` and ``TrainConfig``, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import program_options as g
from scmap_cli.cli import training_options as t
from scmap_cli.cli.session import begin, finish
from scmap_cli.cli.settings import with_configs

SUMMARY = "Interpretable reference of gene programs."
EPILOG = """\b
Example:
  scmap train expimap rna.h5ad -o model --programs programs.npz --batch-key batch --epochs 400

Pitfall: give --batch-key when the cells come from several batches. Without it their differences are explained by the
programs, and the embedding separates batches instead of cell types.
"""


def verb(
    ctx: typer.Context,
    input: o.RnaInput = None,
    output: t.ModelOutput = None,
    programs: Annotated[
        Path | None,
        typer.Option(
            "--programs",
            metavar="FILE.npz",
            show_default="varm['scmap_programs'] of the input",
            help="Gene programs from `scmap preprocess programs`.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    program_weights: Annotated[
        str,
        typer.Option(
            "--program-weights",
            metavar="size|equal|FILE.tsv",
            help="Group lasso weight of programs: by the root of their size, all 1, or one program<TAB>weight a line "
            "(0 keeps a program active).",
            rich_help_panel=o.DATA,
        ),
    ] = "size",
    batch_key: o.BatchKey = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    metrics: t.Metrics = None,
    membership: g.Membership = "hard",
    hidden: Annotated[
        str, typer.Option("--hidden", metavar=o.WIDTHS, help="Widths of the encoder's layers.", rich_help_panel=o.MODEL)
    ] = "256,256,256",
    dropout: Annotated[
        float,
        typer.Option(
            "--dropout", metavar="SHARE", help="Share of encoder units dropped in training.", rich_help_panel=o.MODEL
        ),
    ] = 0.05,
    likelihood: Annotated[
        Literal["nb", "mse"],
        typer.Option("--likelihood", help="nb for counts, mse for normalised values.", rich_help_panel=o.MODEL),
    ] = "nb",
    mean: Annotated[
        Literal["softmax", "softplus", "exp"],
        typer.Option(
            "--mean", help="Mean function of nb; softmax is scaled by the library size.", rich_help_panel=o.MODEL
        ),
    ] = "softmax",
    input_scale: Annotated[
        Literal["counts", "as-is"],
        typer.Option(
            "--input-scale",
            help="counts: the input is raw counts. as-is: mse on the values of --layer, whatever their scale.",
            rich_help_panel=o.MODEL,
        ),
    ] = "counts",
    group_lasso: g.GroupLasso = 0.7,
    soft_l1: g.SoftL1 = 0.5,
    kl_weight: g.KlWeight = 0.1,
    kl_anneal_epochs: g.KlAnnealEpochs = 100.0,
    unconstrained: Annotated[
        int,
        typer.Option(
            "--unconstrained", metavar="N", help="Programs without a gene list, to be learnt.", rich_help_panel=o.MODEL
        ),
    ] = 0,
    unconstrained_l1: g.UnconstrainedL1 = 0.7,
    l1_anneal_epochs: g.L1AnnealEpochs = 50.0,
    hsic: g.Hsic = 1.0,
    epochs: t.Epochs = 400,
    batch_size: t.BatchSize = 128,
    lr: t.Lr = 1e-3,
    adam_eps: t.AdamEps = 0.01,
    weight_decay: t.WeightDecay = 0.0,
    validation_share: t.ValidationShare = 0.1,
    patience: t.Patience = 50,
    lr_patience: t.LrPatience = 13,
    lr_factor: t.LrFactor = 0.1,
    sampling: t.Sampling = "balanced",
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
    """Interpretable reference of gene programs (expiMap) from raw counts.

    MODEL_DIR gets the weights, the programs with their top genes, scores and the loss curve. A run stopped by SIGTERM,
    SIGUSR1 or Ctrl-C saves its state and exits 75; the same command goes on from there.
    """
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train_expimap import train_expimap

    train_expimap(**options)
    finish(options)
