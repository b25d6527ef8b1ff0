"""The ``scmap`` command: its verbs, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, NoReturn

import typer

from scmap_cli import __version__
from scmap_cli.cli import (
    embed,
    evaluate_clustering,
    evaluate_genes,
    evaluate_imputation,
    evaluate_integration,
    evaluate_invariance,
    evaluate_markers,
    evaluate_reconstruction,
    gp_test,
    impute,
    info,
    map_query,
    preprocess_atac,
    preprocess_corpus,
    preprocess_gene_scores,
    preprocess_motifs,
    preprocess_multiome,
    preprocess_peaks,
    preprocess_programs,
    preprocess_rna,
    report,
    select_markers,
    simulate_atac,
    simulate_rna,
    train_expimap,
    train_expresser,
    train_markermap,
    train_sailer,
    train_sailerx,
)
from scmap_cli.cli.command import USAGE_ERROR, Verb, Verbs, usage_text
from scmap_cli.cli.session import PIPE_CLOSED, emit, silence_stdout
from scmap_cli.errors import EXIT_CODES, EXIT_INTERRUPTED, DeviceError, ScmapError, WriteError
from scmap_cli.runtime.logs import log

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EXIT_TABLE = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
_GROUPS = {
    "preprocess": "Raw files to the tables that models read.",
    "simulate": "Data with a known truth.",
    "train": "Train a model.",
    "evaluate": "Score results against what is known.",
}

VERBS: dict[str, ModuleType] = {
    "preprocess atac": preprocess_atac,
    "preprocess peaks": preprocess_peaks,
    "preprocess rna": preprocess_rna,
    "preprocess multiome": preprocess_multiome,
    "preprocess programs": preprocess_programs,
    "preprocess gene-scores": preprocess_gene_scores,
    "preprocess motifs": preprocess_motifs,
    "preprocess corpus": preprocess_corpus,
    "simulate rna": simulate_rna,
    "simulate atac": simulate_atac,
    "train sailer": train_sailer,
    "train sailerx": train_sailerx,
    "train markermap": train_markermap,
    "train expimap": train_expimap,
    "train expresser": train_expresser,
    "embed": embed,
    "impute": impute,
    "map-query": map_query,
    "gp-test": gp_test,
    "select-markers": select_markers,
    "evaluate clustering": evaluate_clustering,
    "evaluate integration": evaluate_integration,
    "evaluate invariance": evaluate_invariance,
    "evaluate imputation": evaluate_imputation,
    "evaluate markers": evaluate_markers,
    "evaluate reconstruction": evaluate_reconstruction,
    "evaluate genes": evaluate_genes,
    "report": report,
    "info": info,
}
"""Every verb by its words, in the order of a pipeline."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def _version(value: bool) -> None:
    if value:
        emit(f"scmap {__version__}\n")
        raise typer.Exit(0)


def _show_help(ctx: typer.Context, value: bool) -> None:
    if value:
        emit(ctx.get_help() + "\n")
        raise typer.Exit(0)


# Typer's own help and completion options make it import pydantic before any verb is known, half of the 0.3 s that help
# may take; a flag that is False from the start does not. Completion scripts still come by _SCMAP_COMPLETE=source_bash.
_GroupHelp = Annotated[
    bool, typer.Option("-h", "--help", is_eager=True, callback=_show_help, help="Show this message and stop.")
]


def _no_verb(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        sys.stderr.write(ctx.get_help() + "\n")
        raise typer.Exit(2)


def _group_callback(ctx: typer.Context, help: _GroupHelp = False) -> None:
    _no_verb(ctx)


def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("-V", "--version", is_eager=True, callback=_version, help="Print the version and stop.")
    ] = False,
    help: _GroupHelp = False,
) -> None:
    """Single-cell embeddings, gene programs and scores from raw files, one command a stage.

    A verb reads files and writes files. stdout carries data only; messages go to stderr. The same input and
    seed give the same bytes.
    """
    _no_verb(ctx)


def _group(name: str, summary: str) -> typer.Typer:
    group = typer.Typer(
        name=name, cls=Verbs, rich_markup_mode=None, add_help_option=False, context_settings=_HELP, help=summary
    )
    group.callback(invoke_without_command=True)(_group_callback)
    return group


def _listed() -> None:
    """Stands for a verb that is only listed: the options of one verb take several milliseconds to declare."""


def _wanted(arguments: Sequence[str]) -> str | None:
    """The verb that a command line runs, empty if it runs none, None if it may need the options of all."""
    if "_SCMAP_COMPLETE" in os.environ or any(word.startswith(("--config", "--print-config")) for word in arguments):
        return None
    return next((path for path in (" ".join(arguments[:2]), *arguments[:1]) if path in VERBS), "")


def _build(wanted: str | None = None) -> typer.Typer:
    """The tree of verbs, with the options of the ``wanted`` one alone; None declares all."""
    root = typer.Typer(
        name="scmap",
        cls=Verbs,
        rich_markup_mode=None,
        add_completion=False,
        add_help_option=False,
        pretty_exceptions_enable=False,
        context_settings=_HELP,
        epilog=_EXIT_TABLE,
    )
    root.callback(invoke_without_command=True)(_root)
    Verbs.order = tuple(dict.fromkeys(path.split()[0] for path in VERBS))
    groups: dict[str, typer.Typer] = {}
    for path, module in VERBS.items():
        *above, word = path.split()
        target = root
        if above:
            name = above[0]
            if name not in groups:
                groups[name] = _group(name, _GROUPS[name])
                root.add_typer(groups[name])
            target = groups[name]
        target.command(word, cls=Verb, context_settings=_HELP, short_help=module.SUMMARY, epilog=module.EPILOG)(
            module.verb if wanted in (None, path) else _listed
        )
    return root


app = _build()


def _say(message: str, hint: str | None = None) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))


def _as_scmap_error(error: BaseException) -> ScmapError | None:
    """Memory and disk running out, seen from outside a stage; None for anything else."""
    torch = sys.modules.get("torch")
    out_of_memory = getattr(torch, "OutOfMemoryError", None)
    advice = "lower --batch-size where there is one, or use a machine with more memory"
    if out_of_memory is not None and isinstance(error, out_of_memory):
        return DeviceError(f"the GPU ran out of memory: {str(error).splitlines()[0]}", advice)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return DeviceError("this machine ran out of memory", advice)
    if isinstance(error, OSError) and error.errno in (*_FULL, *_REFUSED):
        where = f" {error.filename}" if error.filename else ""
        if error.errno in _FULL:
            return WriteError(f"no space left while writing{where}", "free some space, or write elsewhere")
        return WriteError(f"no permission to write{where}: {os.strerror(error.errno)}", "choose another output")
    return None


def _bug(error: BaseException) -> int:
    if sys.stderr is None:
        return 1
    traceback.print_exception(error, file=sys.stderr)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    sys.stderr.write(f"bug in scmap: {what}\nplease report it with the lines above\n")
    return 1


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command line and return its exit code."""
    try:
        if "_SCMAP_COMPLETE" in os.environ:
            from typer.completion import completion_init  # type: ignore[attr-defined]

            completion_init()
        words = list(sys.argv[1:] if arguments is None else arguments)
        code = _build(_wanted(words))(args=words, prog_name="scmap", standalone_mode=False)
    except SystemExit as error:
        # Shell completion ends this way, and help whose reader went away.
        if isinstance(error.__context__, BrokenPipeError):
            silence_stdout()
            return PIPE_CLOSED
        return error.code if isinstance(error.code, int) else 0
    except BrokenPipeError:
        silence_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except USAGE_ERROR as error:
        _say(*usage_text(error))
        return 2
    except typer.Abort:
        code = EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - this is the boundary
        known = error if isinstance(error, ScmapError) else _as_scmap_error(error)
        if known is None:
            return _bug(error)
        if log.isEnabledFor(logging.DEBUG):
            traceback.print_exception(error, file=sys.stderr)
        _say(str(known), known.hint)
        return known.exit_code
    if code == EXIT_INTERRUPTED:
        _say("interrupted")
    return code if isinstance(code, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``scmap`` with the process's arguments, or the ones given, and end with its exit code."""
    code = _run(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        silence_stdout()
        code = code or (PIPE_CLOSED if isinstance(error, BrokenPipeError) else WriteError.exit_code)
    sys.exit(code)
