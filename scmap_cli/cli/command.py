"""How help looks: plain text, options under headings, and usage errors without boxes."""

from __future__ import annotations

from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

USAGE_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""What the parser raises for a wrong command line; Typer has no public name for it, and its click is a copy."""


class Verb(TyperCommand):
    """A verb whose help lists arguments and options under the headings of their panels."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments as their metavar says; that one is required is checked after a config file was read."""
        arguments = [str(parameter.metavar) for parameter in self.params if parameter.param_type_name == "argument"]
        return [*arguments, "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section a panel, in the order of declaration."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                sections.setdefault("Arguments", []).append((str(parameter.metavar), getattr(parameter, "help", "")))
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or "Run", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Verbs(TyperGroup):
    """A group that lists its verbs in the order of a pipeline; Typer itself puts groups after commands."""

    order: ClassVar[tuple[str, ...]] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        """Names as :attr:`order` has them; others follow as they were declared."""
        return [
            *(name for name in self.order if name in self.commands),
            *(n for n in self.commands if n not in self.order),
        ]


def usage_text(error: Any) -> tuple[str, str]:
    """Message and hint of a parser's error, one line each."""
    message = " ".join(str(error.format_message()).split())
    path = error.ctx.command_path if error.ctx is not None else "scmap"
    return message, f"see '{path} -h'"
