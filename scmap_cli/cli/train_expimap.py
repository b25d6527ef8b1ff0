"""``scmap train expimap``; the defaults are those of ``ExpiMapConfig`` and ``TrainConfig``, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
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
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT", show_default=False, help="Raw counts: h5ad, 10x .h5, 10x matrix folder, TSV or CSV."
        ),
    ] = None,
    output: o.ModelOutput = None,
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
        Path | None,
        typer.Option(
            "--program-weights",
            metavar="FILE.tsv",
            show_default="1 for all",
            help="Group lasso weight of programs, one program<TAB>weight a line; 0 keeps a program active.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: o.BatchKey = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    metrics: o.Metrics = None,
    membership: Annotated[
        Literal["hard", "soft"],
        typer.Option(
            "--membership",
            help="hard: a program holds its genes only. soft: others may join against --soft-l1.",
            rich_help_panel=o.MODEL,
        ),
    ] = "hard",
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
    group_lasso: Annotated[
        float,
        typer.Option(
            "--group-lasso",
            metavar="X",
            help="Weight alpha of the group lasso that switches programs off.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.7,
    soft_l1: Annotated[
        float,
        typer.Option(
            "--soft-l1",
            metavar="X",
            help="Weight gamma of the L1 penalty on genes outside a soft program.",
            rich_help_panel=o.MODEL,
        ),
    ] = 0.5,
    kl_weight: Annotated[
        float,
        typer.Option("--kl-weight", metavar="X", help="Final weight beta of the KL term.", rich_help_panel=o.MODEL),
    ] = 0.1,
    kl_anneal_epochs: Annotated[
        float,
        typer.Option(
            "--kl-anneal-epochs",
            metavar="N",
            help="Epochs over which the KL weight rises from 0.",
            rich_help_panel=o.MODEL,
        ),
    ] = 100.0,
    unconstrained: Annotated[
        int,
        typer.Option(
            "--unconstrained", metavar="N", help="Programs without a gene list, to be learnt.", rich_help_panel=o.MODEL
        ),
    ] = 0,
    unconstrained_l1: Annotated[
        float,
        typer.Option(
            "--unconstrained-l1", metavar="X", help="Their weight of the L1 penalty.", rich_help_panel=o.MODEL
        ),
    ] = 0.7,
    l1_anneal_epochs: Annotated[
        float,
        typer.Option(
            "--l1-anneal-epochs",
            metavar="N",
            help="Epochs over which both L1 weights rise from 0.",
            rich_help_panel=o.MODEL,
        ),
    ] = 50.0,
    hsic: Annotated[
        float,
        typer.Option(
            "--hsic",
            metavar="X",
            help="Weight of the independence of unconstrained programs from all others.",
            rich_help_panel=o.MODEL,
        ),
    ] = 1.0,
    epochs: o.Epochs = 400,
    batch_size: o.BatchSize = 128,
    lr: o.Lr = 1e-3,
    adam_eps: o.AdamEps = 0.01,
    weight_decay: o.WeightDecay = 0.0,
    validation_share: o.ValidationShare = 0.1,
    patience: o.Patience = 50,
    lr_patience: o.LrPatience = 13,
    lr_factor: o.LrFactor = 0.1,
    sampling: o.Sampling = "balanced",
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
    """Interpretable reference of gene programs (expiMap) from raw counts.

    MODEL_DIR gets the weights, the programs with their top genes, scores and the loss curve. A run stopped by SIGTERM,
    SIGUSR1 or Ctrl-C saves its state and exits 75; the same command goes on from there.
    """
    options = with_configs(ctx, begin(ctx, needs=("input", "output")))
    from scmap_cli.stages.train import train

    train("expimap", **options)
    finish(options)
