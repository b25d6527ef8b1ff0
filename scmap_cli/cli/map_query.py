"""``scmap map-query``; the defaults are those of the stage, which a test holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli import program_options as g
from scmap_cli.cli import training_options as t
from scmap_cli.cli.session import begin, finish, refuse
from scmap_cli.cli.settings import with_configs

SUMMARY = "Put a query into the space of a reference, learn what is new, carry labels over."
EPILOG = """\b
Example:
  scmap map-query model q.h5ad -o mapped.h5ad --model-out mapped --reference rna.h5ad --label-key cell_type

Pitfall: a batch's own parameters can explain what sets its cells apart as a whole. To compare a stimulus or a disease
with gp-test, map treated and control cells as one batch (--one-batch NAME), not as one batch each.
"""
_PROGRAMS, _LABELS = "New programs", "Labels"
# How labels are carried over.
_OF_LABELS = ("space", "components", "refine", "neighbors", "unknown_below")


def verb(
    ctx: typer.Context,
    model_dir: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL_DIR", show_default=False, help="Reference, from `scmap train expimap`."),
    ] = None,
    query: Annotated[
        Path | None,
        typer.Argument(
            metavar="QUERY", show_default=False, help="Raw counts; genes are matched by name, never by place."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.h5ad",
            help="The query with its embedding in the reference's space; required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    model_out: Annotated[
        Path | None,
        typer.Option(
            "--model-out", metavar="MODEL_DIR", help="Folder of the mapped model; required.", rich_help_panel=o.DATA
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw a UMAP of the query, with --reference of both, by batch and label.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: Annotated[
        str | None,
        typer.Option(
            "--batch-key",
            metavar="COLUMN",
            show_default="that of the training, if the query has it",
            help="Column of obs with the query's batches.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    one_batch: Annotated[
        str | None,
        typer.Option(
            "--one-batch", metavar="NAME", help="Take the whole query as one new batch.", rich_help_panel=o.DATA
        ),
    ] = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    min_overlap: o.MinOverlap = 0.5,
    missing: Annotated[
        Literal["zero", "reference-mean"],
        typer.Option(
            "--missing",
            help="What cells get for genes the input lacks: zero, or what the reference has on average.",
            rich_help_panel=o.DATA,
        ),
    ] = "zero",
    join: Annotated[
        Path | None,
        typer.Option(
            "--join",
            metavar="FILE.h5ad",
            help="Also write reference and query together; needs --reference.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="FILE",
            help="The cells the reference was trained on.",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            metavar="COLUMN",
            help="Column of the reference's obs with the labels to carry over.",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    space: Annotated[
        Literal["discriminant", "decoder", "latent"],
        typer.Option(
            "--space",
            help="Neighbours by what tells the labels apart, by expression as decoded, or in the embedding as it is.",
            rich_help_panel=_LABELS,
        ),
    ] = "discriminant",
    components: Annotated[
        int,
        typer.Option(
            "--components",
            metavar="N",
            help="Leading principal components of the reference that are looked at; 0 takes all dimensions.",
            rich_help_panel=_LABELS,
        ),
    ] = 60,
    refine: Annotated[
        int,
        typer.Option(
            "--refine",
            metavar="N",
            help="Steps that fit each cell's position to its counts before that; 0 takes the encoder's.",
            rich_help_panel=_LABELS,
        ),
    ] = 25,
    neighbors: Annotated[
        int,
        typer.Option(
            "--neighbors", metavar="N", help="Nearest reference cells that vote for a label.", rich_help_panel=_LABELS
        ),
    ] = 15,
    unknown_below: Annotated[
        float,
        typer.Option(
            "--unknown-below",
            metavar="SHARE",
            help="Call a cell unknown if its label's probability is lower.",
            rich_help_panel=_LABELS,
        ),
    ] = 0.5,
    new_programs: Annotated[
        int,
        typer.Option(
            "--new-programs",
            metavar="N",
            help="Unconstrained programs to learn from the query.",
            rich_help_panel=_PROGRAMS,
        ),
    ] = 0,
    programs: Annotated[
        Path | None,
        typer.Option(
            "--programs",
            metavar="FILE.npz",
            help="Further gene programs to learn from the query.",
            rich_help_panel=_PROGRAMS,
        ),
    ] = None,
    membership: g.Membership = "hard",
    soft_l1: g.SoftL1 = 0.5,
    unconstrained_l1: g.UnconstrainedL1 = 0.7,
    group_lasso: g.GroupLasso = 0.0,
    hsic: g.Hsic = 1.0,
    kl_weight: g.KlWeight = 0.1,
    kl_anneal_epochs: g.KlAnnealEpochs = 50.0,
    l1_anneal_epochs: g.L1AnnealEpochs = 50.0,
    epochs: t.Epochs = 400,
    batch_size: t.BatchSize = 128,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="X",
            show_default="0.001; with programs to learn 0.003",
            help="Learning rate of Adam.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    weight_decay: t.WeightDecay = 0.0,
    validation_share: t.ValidationShare = 0.1,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            metavar="N",
            show_default="20; with programs to learn 0",
            help="End after N epochs without a better validation score, counted from the end of annealing; 0 never.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    sampling: t.Sampling = "balanced",
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
    """Map new cells onto a trained reference, which stays as it is to the bit (expiMap, architecture surgery).

    Only parameters of new batches and of added programs train. The mapped model embeds reference and query alike.
    """
    if label_key is None:
        refuse(ctx, _OF_LABELS, "needs --label-key")
        if join is None and plot is None:
            refuse(ctx, ("reference",), "needs --label-key, --join or --plot")
    options = with_configs(ctx, begin(ctx, needs=("model_dir", "query", "output", "model_out")))
    from scmap_cli.stages.map_query import map_query

    map_query(**options)
    finish(options, "join", "plot")
