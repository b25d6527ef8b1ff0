"""What every verb does before and after its stage: logs, threads, caches, the options in effect, data on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from scmap_cli.cli import settings
from scmap_cli.errors import UsageError, WriteError
from scmap_cli.runtime import logs, threads

PIPE_CLOSED = 141
"""What a shell reports for a program whose reader went away (128 + SIGPIPE)."""

_MACHINE = ("threads", "quiet", "verbose", "config", "print_config")


def begin(ctx: typer.Context, *, needs: Sequence[str] = (), text_output: bool = False) -> dict[str, Any]:
    """Prepare the process and return the options for the stage.

    Nothing heavy may be imported before this: threads and cache folders are set through the environment.

    Parameters
    ----------
    ctx
        The call.
    needs
        Names of the parameters that must be given, by flag or file.
    text_output
        Whether the output is text, which may go to stdout.

    Returns
    -------
    dict
        Values by parameter name, without those that were not given and have no default here (the stage's own default
        holds for them), and without those that concern the process alone.

    Raises
    ------
    UsageError
        Something is missing or contradictory.
    """
    options = dict(ctx.params)
    if options.get("quiet") and options.get("verbose"):
        raise UsageError("-q and -v contradict each other", "give one of them")
    logs.setup(-1 if options.get("quiet") else 1 if options.get("verbose") else 0)
    if options.get("print_config"):
        emit(settings.effective(ctx))
        raise typer.Exit(0)
    for parameter in ctx.command.params:
        if parameter.name in needs and options.get(parameter.name) in (None, (), []):
            raise UsageError(f"missing {_display(parameter)}", f"see '{ctx.command_path} -h'")
    if str(options.get("output")) == "-" and not text_output:
        raise UsageError("-o - is for text; this output needs a file that can be sought in", "name a file with -o")
    for name, value in options.items():
        for path in value if isinstance(value, list | tuple) else (value,):
            if name not in _MACHINE and isinstance(path, Path) and path.is_fifo():
                raise UsageError(
                    f"{path} is a pipe, and files are read in more than one pass", "write it to a file and name that"
                )
    threads.set_threads(options.get("threads"))
    _keep_home_clean()
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "BEST_EFFORT")
    os.environ.setdefault("MPLBACKEND", "Agg")
    return {name: value for name, value in options.items() if name not in _MACHINE and value not in (None, (), [])}


def refuse(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """A usage error for the first of these options that a flag gave; a config file may serve several kinds of run."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} {why}", f"see '{ctx.command_path} -h'")


def _display(parameter: Any) -> str:
    if parameter.opts[0].startswith("-"):
        return f"option {' / '.join(parameter.opts)}"
    # The help has arguments that some ways to call do without in brackets.
    return f"argument {parameter.metavar.strip('[]')}"


def _keep_home_clean() -> None:
    """Point the caches of matplotlib and numba into ``$TMPDIR``, unless the user has chosen places for them."""
    names = {"MPLCONFIGDIR": "matplotlib", "NUMBA_CACHE_DIR": "numba"}
    missing = {name: folder for name, folder in names.items() if name not in os.environ}
    if not missing:
        return
    import tempfile

    base = os.path.join(tempfile.gettempdir(), f"scmap-{os.getuid()}")
    try:
        os.mkdir(base, 0o700)
    except OSError:
        # numba runs what it finds in its cache, so a folder that others can write to is not taken.
        try:
            state = os.lstat(base)
        except OSError:
            return
        if state.st_uid != os.getuid() or state.st_mode & 0o170022 != 0o040000:
            logs.log.debug("%s is not a private folder; caches stay where they are", base)
            return
    for name, folder in missing.items():
        os.environ[name] = os.path.join(base, folder)


def finish(options: dict[str, Any], *outputs: str) -> None:
    """Say what was written; ``outputs`` are names of options that may hold paths."""
    if options.get("dry_run"):
        logs.log.info("dry run: nothing was written")
        return
    named = [str(options[name]) for name in outputs if name in options and str(options[name]) != "-"]
    # A figure that could not be drawn was warned of, and is not there.
    paths = [path for path in named if os.path.lexists(path)]
    if paths:
        logs.log.info("wrote %s", ", ".join(paths))


def emit(text: str) -> None:
    """Write data to stdout; a reader that has gone away ends the process quietly."""
    if sys.stdout is None:
        raise WriteError("stdout is closed", "name a file with -o")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        raise typer.Exit(PIPE_CLOSED) from None


def silence_stdout() -> None:
    """Let what is left in the buffer of a stdout that takes no more go nowhere, also at the interpreter's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
