"""Options of the verbs that train gene programs: ``train expimap`` and ``map-query``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from scmap_cli.cli.options import MODEL

Membership = Annotated[
    Literal["hard", "soft"],
    typer.Option(
        "--membership",
        help="hard: a program holds its genes only. soft: others may join against --soft-l1.",
        rich_help_panel=MODEL,
    ),
]
GroupLasso = Annotated[
    float,
    typer.Option(
        "--group-lasso",
        metavar="X",
        help="Weight alpha of the group lasso that switches programs off.",
        rich_help_panel=MODEL,
    ),
]
SoftL1 = Annotated[
    float,
    typer.Option(
        "--soft-l1",
        metavar="X",
        help="Weight gamma of the L1 penalty on genes outside a soft program.",
        rich_help_panel=MODEL,
    ),
]
UnconstrainedL1 = Annotated[
    float,
    typer.Option(
        "--unconstrained-l1",
        metavar="X",
        help="Weight of the L1 penalty on programs without a gene list.",
        rich_help_panel=MODEL,
    ),
]
L1AnnealEpochs = Annotated[
    float,
    typer.Option(
        "--l1-anneal-epochs", metavar="N", help="Epochs over which both L1 weights rise from 0.", rich_help_panel=MODEL
    ),
]
Hsic = Annotated[
    float,
    typer.Option(
        "--hsic",
        metavar="X",
        help="Weight of the independence of programs without a gene list from all others.",
        rich_help_panel=MODEL,
    ),
]
KlWeight = Annotated[
    float, typer.Option("--kl-weight", metavar="X", help="Final weight beta of the KL term.", rich_help_panel=MODEL)
]
KlAnnealEpochs = Annotated[
    float,
    typer.Option(
        "--kl-anneal-epochs", metavar="N", help="Epochs over which the KL weight rises from 0.", rich_help_panel=MODEL
    ),
]
