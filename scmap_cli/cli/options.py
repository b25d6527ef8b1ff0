"""Options that verbs share, declared once: the same flag has the same type, help and meaning everywhere.

Those of a family of verbs are in modules of their own: ``training_options``, ``program_options``, ``peak_options``,
``marker_options``, ``scoring_options``.

An option's panel is its heading in the help, and for ``train`` also its section in a ``--config`` file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import settings

DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"
SCORES, GRID = "Scores", "Grid"

WIDTHS = "N,..."
"""Metavar of options that take whole numbers separated by commas."""

NUMBERS = "X,..."
"""Metavar of options that take numbers separated by commas."""

RnaInput = Annotated[
    Path | None,
    typer.Argument(
        metavar="INPUT", show_default=False, help="Raw counts: h5ad, 10x .h5, 10x matrix folder, TSV or CSV."
    ),
]
H5adOutput = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE.h5ad", help="File to write; required.", rich_help_panel=DATA),
]
QualityPlot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.png", help="Draw the quality of the cells kept, by batch.", rich_help_panel=DATA
    ),
]
Samples = Annotated[
    list[str] | None,
    typer.Option(
        "--sample",
        metavar="NAME",
        show_default="file names",
        help="Sample name, once for each input, in their order.",
        rich_help_panel=DATA,
    ),
]
BatchKey = Annotated[
    str | None,
    typer.Option("--batch-key", metavar="COLUMN", help="Column of obs with the batches.", rich_help_panel=DATA),
]
NeededBatchKey = Annotated[
    str | None,
    typer.Option(
        "--batch-key", metavar="COLUMN", help="Column of obs with the batches; required.", rich_help_panel=DATA
    ),
]
WrittenBatchKey = Annotated[
    str,
    typer.Option(
        "--batch-key",
        metavar="COLUMN",
        help="Column of obs with the batches; written when there are several inputs or --sample.",
        rich_help_panel=DATA,
    ),
]
LabelKey = Annotated[
    str | None,
    typer.Option(
        "--label-key", metavar="COLUMN", help="Column of obs with the labels; required.", rich_help_panel=DATA
    ),
]
GeneTable = Annotated[
    Path | None,
    typer.Option(
        "--gene-table",
        metavar="FILE.tsv",
        help="Table with a header: gene_id, gene_name, gene_type. Brings identifiers and symbols together.",
        rich_help_panel=DATA,
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
        help="Column of obs with the labels; required by what is chosen or trained for labels.",
        rich_help_panel=DATA,
    ),
]
ClusterBackend = Annotated[
    Literal["igraph", "leidenalg"],
    typer.Option("--cluster-backend", help="Implementation of Leiden; igraph is the faster one.", rich_help_panel=DATA),
]

CellsAtOnce = Annotated[
    int,
    typer.Option(
        "--batch-size", metavar="N", help="Cells computed at once; lower it if memory runs out.", rich_help_panel=RUN
    ),
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
