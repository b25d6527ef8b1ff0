"""``scmap evaluate WHAT --compare``: what the verbs of evaluate do with it."""

from __future__ import annotations

import typer

from scmap_cli.cli.session import begin, emit, finish


def run_compare(ctx: typer.Context, what: str) -> None:
    """Make one table of earlier results, instead of scoring anything.

    Parameters
    ----------
    ctx
        The call of a verb of ``evaluate``, with ``inputs`` and ``output``.
    what
        The kind of evaluation that the results must be of.
    """
    options = begin(ctx, needs=("inputs",), text_output=True)
    from scmap_cli.stages.compare import compare, render_table

    taken = {name: options[name] for name in ("inputs", "output", "plot", "force", "dry_run") if name in options}
    table = compare(**taken, what=what)
    if str(options["output"]) == "-" and not options.get("dry_run"):
        emit(render_table(table))
    finish(options, "output", "plot")
