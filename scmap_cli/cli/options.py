"""Options that verbs share, declared once: the same flag has the same type, help and meaning everywhere.

An option's panel is its heading in the help, and for ``train`` also its section in a ``--config`` file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import settings

DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"

WIDTHS = "N,..."
"""Metavar of options that take whole numbers separated by commas."""

NUMBERS = "X,..."
"""Metavar of options that take numbers separated by commas."""

BatchKey = Annotated[
    str | None,
    typer.Option("--batch-key", metavar="COLUMN", help="Column of obs with the batches.", rich_help_panel=DATA),
]
LabelKey = Annotated[
    str | None,
    typer.Option(
        "--label-key", metavar="COLUMN", help="Column of obs with the labels; required.", rich_help_panel=DATA
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        show_default="layer counts, else raw, else X if whole numbers",
        help="Layer that holds the raw counts (X and raw are accepted too).",
        rich_help_panel=DATA,
    ),
]
GeneColumn = Annotated[
    str | None,
    typer.Option(
        "--gene-column",
        metavar="COLUMN",
        show_default="var names",
        help="Column of var with the gene names.",
        rich_help_panel=DATA,
    ),
]
MinOverlap = Annotated[
    float,
    typer.Option(
        "--min-overlap",
        metavar="SHARE",
        help="Smallest share of the model's genes that the input must have.",
        rich_help_panel=DATA,
    ),
]
Missing = Annotated[
    Literal["zero", "reference-mean"] | None,
    typer.Option(
        "--missing",
        show_default="what the mapping took, else zero",
        help="What cells get for genes the input lacks: zero, or what the reference has on average.",
        rich_help_panel=DATA,
    ),
]
ReferenceKey = Annotated[
    str | None,
    typer.Option(
        "--reference-key",
        metavar="KEY",
        show_default="that of the training",
        help="Key of obsm with the embedding of the RNA, of the space that the model was trained with.",
        rich_help_panel=DATA,
    ),
]
IgnoreRna = Annotated[
    bool,
    typer.Option("--ignore-rna", help="Encode every cell by its peaks alone.", rich_help_panel=DATA),
]
ExcludeLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-labels",
        metavar="LABEL",
        show_default="none",
        help="Leave cells of this label out; may be repeated.",
        rich_help_panel=DATA,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        "--label-key",
        metavar="COLUMN",
        show_default="none",
        help="Column of obs with the labels.",
        rich_help_panel=DATA,
    ),
]
TrainCells = Annotated[
    Path | None,
    typer.Option(
        "--train-cells", metavar="FILE", help="Choose by these cells alone, one name a line.", rich_help_panel=DATA
    ),
]
ForceIn = Annotated[
    Path | None,
    typer.Option("--force-in", metavar="FILE", help="Genes that come first, one a line.", rich_help_panel=DATA),
]
ForceOut = Annotated[
    Path | None,
    typer.Option("--force-out", metavar="FILE", help="Genes that are not chosen, one a line.", rich_help_panel=DATA),
]
PriorScores = Annotated[
    Path | None,
    typer.Option(
        "--prior",
        metavar="FILE.tsv",
        help="Genes to start ahead, one gene<TAB>score a line.",
        rich_help_panel=DATA,
    ),
]
GeneCosts = Annotated[
    Path | None,
    typer.Option(
        "--costs", metavar="FILE.tsv", help="What genes cost, one gene<TAB>cost a line.", rich_help_panel=DATA
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME[,NAME]",
        show_default="none",
        help="Choose genes by these methods; see `select-markers -h`.",
        rich_help_panel="Genes",
    ),
]
MarkerTables = Annotated[
    list[Path] | None,
    typer.Option(
        "--markers",
        metavar="FILE.tsv",
        show_default="none",
        help="Genes of a table of select-markers; may be repeated.",
        rich_help_panel="Genes",
    ),
]
AsPublished = Annotated[
    bool,
    typer.Option(
        "--as-published",
        help="Run methods as the MarkerMap paper did, where that is not how they are meant.",
        rich_help_panel="Genes",
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="INPUTs are JSON files of earlier runs of this verb; write one table of them (TSV, or JSON by its name).",
        rich_help_panel=DATA,
    ),
]
ClusterBackend = Annotated[
    Literal["igraph", "leidenalg"],
    typer.Option("--cluster-backend", help="Implementation of Leiden; igraph is the faster one.", rich_help_panel=DATA),
]

Epochs = Annotated[
    int, typer.Option("--epochs", metavar="N", help="Most epochs that are trained.", rich_help_panel=TRAINING)
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Cells per step and process; lower it if memory runs out.",
        rich_help_panel=TRAINING,
    ),
]
Lr = Annotated[float, typer.Option("--lr", metavar="X", help="Learning rate of Adam.", rich_help_panel=TRAINING)]
AdamEps = Annotated[float, typer.Option("--adam-eps", metavar="X", help="Epsilon of Adam.", rich_help_panel=TRAINING)]
WeightDecay = Annotated[
    float,
    typer.Option("--weight-decay", metavar="X", help="L2 weight of Adam; 0 is off.", rich_help_panel=TRAINING),
]
ValidationShare = Annotated[
    float,
    typer.Option(
        "--validation-share",
        metavar="SHARE",
        help="Share of each batch's cells held out to choose the best epoch; 0 keeps the last.",
        rich_help_panel=TRAINING,
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        "--patience",
        metavar="N",
        help="End after N epochs without a better validation score, counted from the end of annealing; 0 never.",
        rich_help_panel=TRAINING,
    ),
]
LrPatience = Annotated[
    int,
    typer.Option(
        "--lr-patience",
        metavar="N",
        help="Lower the learning rate after N epochs without a better score; 0 never.",
        rich_help_panel=TRAINING,
    ),
]
LrFactor = Annotated[
    float,
    typer.Option(
        "--lr-factor", metavar="X", help="What the learning rate is then multiplied by.", rich_help_panel=TRAINING
    ),
]
Sampling = Annotated[
    Literal["balanced", "shuffle"],
    typer.Option(
        "--sampling",
        help="balanced draws batches equally often; shuffle draws cells without replacement.",
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"],
    typer.Option("--precision", help="Number type of the matrix products.", rich_help_panel=TRAINING),
]
GradClip = Annotated[
    float,
    typer.Option("--grad-clip", metavar="X", help="Largest gradient norm; 0 is off.", rich_help_panel=TRAINING),
]
CheckpointMinutes = Annotated[
    float,
    typer.Option("--checkpoint-minutes", metavar="X", help="Minutes between checkpoints.", rich_help_panel=TRAINING),
]
Resume = Annotated[
    Literal["auto", "never"],
    typer.Option("--resume", help="auto goes on from a checkpoint of the same run in MODEL_DIR.", rich_help_panel=RUN),
]
Metrics = Annotated[
    Path | None,
    typer.Option(
        "--metrics", metavar="FILE.json", help="Also write the scores of the training here.", rich_help_panel=DATA
    ),
]
ModelOutput = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="MODEL_DIR", help="Folder to write; required.", rich_help_panel=DATA),
]

Seed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything random; recorded.", rich_help_panel=RUN)
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        help="Where tensors live. auto takes a GPU if there is one; cuda without a GPU is an error.",
        rich_help_panel=RUN,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "-t",
        "--threads",
        metavar="N",
        show_default="SLURM_CPUS_PER_TASK, else the CPUs this process may use",
        help="CPU threads.",
        rich_help_panel=RUN,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing outputs.", rich_help_panel=RUN)]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check inputs and options, say what would be done, write nothing.", rich_help_panel=RUN
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and errors only.", rich_help_panel=RUN)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Details, and a traceback with an error.", rich_help_panel=RUN)
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=settings.apply_file,
        help="Take options from this file; flags given here win. --print-config shows its form.",
        rich_help_panel=RUN,
    ),
]
PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config", help="Print the options in effect as TOML for --config, and stop.", rich_help_panel=RUN
    ),
]


def names(text: str) -> tuple[str, ...]:
    """Names from comma-separated text."""
    return tuple(name.strip() for name in text.split(","))


def integers(text: str, flag: str) -> tuple[int, ...]:
    """Whole numbers from comma-separated text; :class:`~scmap_cli.errors.UsageError` names the flag."""
    return tuple(settings.numbers(text, flag, int))


def floats(text: str, flag: str) -> tuple[float, ...]:
    """Numbers from comma-separated text; :class:`~scmap_cli.errors.UsageError` names the flag."""
    return tuple(settings.numbers(text, flag, float))
