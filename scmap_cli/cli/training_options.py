"""Options of the verbs that train, whatever the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli.options import DATA, MODEL, RUN, TRAINING

ModelOutput = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="MODEL_DIR", help="Folder to write; required.", rich_help_panel=DATA),
]
Metrics = Annotated[
    Path | None,
    typer.Option(
        "--metrics", metavar="FILE.json", help="Also write the scores of the training here.", rich_help_panel=DATA
    ),
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
    typer.Option(
        "--weight-decay", metavar="X", help="L2 weight of Adam, or decay of AdamW; 0 is off.", rich_help_panel=TRAINING
    ),
]
ValidationShare = Annotated[
    float,
    typer.Option(
        "--validation-share",
        metavar="SHARE",
        help="Share of the cells of each batch (or study) held out to choose the best epoch; 0 keeps the last.",
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
Latent = Annotated[int, typer.Option("--latent", metavar="N", help="Latent dimensions.", rich_help_panel=MODEL)]
