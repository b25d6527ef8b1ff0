"""``scmap info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, emit, finish
from scmap_cli.errors import UsageError

SUMMARY = "What a file or model directory holds."
EPILOG = """\b
Example:
  scmap info embedded.h5ad --require obsm:X_expimap || scmap embed model rna.h5ad -o embedded.h5ad

Pitfall: the line "counts from" is judged from a sample of the stored values, so that a large file answers at once; a
stage that reads the counts looks at all of them.
"""


def verb(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", show_default=False, help="An h5ad, an npz, a corpus or a model directory."),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="File to write; - is stdout.", rich_help_panel=o.DATA)
    ] = Path("-"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.", rich_help_panel=o.DATA)] = False,
    history: Annotated[
        bool,
        typer.Option(
            "--history", help="Only the runs that made it, as a JSON list, oldest first.", rich_help_panel=o.DATA
        ),
    ] = False,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="KIND:KEY",
            show_default=False,
            help="Only check that it is there (exit 0) or not (exit 3): obs, var, obsm, varm, obsp, layers, uns, or "
            "array in an npz. May be repeated.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    system: Annotated[
        bool,
        typer.Option(
            "--system", help="This machine: versions, GPUs, CPUs, memory, threads. No PATH.", rich_help_panel=o.DATA
        ),
    ] = False,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """What a file or model directory holds, without loading its matrices; or what this machine offers."""
    options = begin(ctx, text_output=True)
    if sum((path is not None, system)) != 1:
        raise UsageError("give either a path or --system", f"see '{ctx.command_path} -h'")
    from scmap_cli.stages.info import info, render

    result = info(**options)
    if str(output) == "-" and not dry_run and not require:
        emit(render(result, as_json))
    finish(options, *(() if require else ("output",)))
