"""``--config`` files and ``--print-config``: any option of a verb by section and key, default < file < flag.

``train`` reads the sections ``[data]``, ``[model]`` and ``[train]``; any other verb reads the one that is named by its
words, such as ``[preprocess-rna]``. Keys are option names, with hyphens or underscores. One file can serve a whole
pipeline: sections of other verbs are passed over. What belongs to a call rather than to a run (``--force``,
``--dry-run``, ``-q``, ``-v``) is not read from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import typer

from scmap_cli.errors import UsageError

Number = TypeVar("Number", int, float)

_OF_A_CALL = frozenset({"config", "print_config", "dry_run", "force", "quiet", "verbose", "help"})
# Lists of names, such as COLUMN,..., stay text.
_NUMBER_LISTS: dict[str, Callable[[str], Any]] = {"N,...": int, "X,...": float}
_TRAIN_SECTIONS = {"Model": "model", "Training": "train", "Run": "train"}


def numbers(text: str, flag: str, kind: Callable[[str], Number]) -> list[Number]:
    """Comma-separated numbers of one kind."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{flag} is {text!r}", f"give {what} separated by commas") from None


def words(ctx: typer.Context) -> list[str]:
    """The verb's words, such as ``["preprocess", "rna"]``."""
    found: list[str] = []
    level: Any = ctx
    while level.parent is not None:
        found.insert(0, str(level.info_name))
        level = level.parent
    return found


def key_of(parameter: Any) -> str:
    """Key of an option in a file: its long flag with underscores; of an argument, its name."""
    long = [flag for flag in parameter.opts if flag.startswith("--")]
    return str(long[0][2:].replace("-", "_") if long else parameter.name)


def _section_of(parameter: Any, verb: list[str]) -> str:
    if verb[0] != "train":
        return "-".join(verb)
    return _TRAIN_SECTIONS.get(getattr(parameter, "rich_help_panel", None) or "", "data")


def _sections(ctx: typer.Context) -> dict[str, dict[str, Any]]:
    """Parameters of the verb by section and key, in the order of the help."""
    verb = words(ctx)
    names = ["data", "model", "train"] if verb[0] == "train" else ["-".join(verb)]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for parameter in ctx.command.params:
        if parameter.name not in _OF_A_CALL:
            found[_section_of(parameter, verb)][key_of(parameter)] = parameter
    return found


def _all_section_names(ctx: typer.Context) -> list[str]:
    names = {"data", "model", "train"}

    def walk(command: Any, path: list[str]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            if path[0] != "train":
                names.add("-".join(path))
            return
        for name, child in inner.items():
            walk(child, [*path, name])

    walk(ctx.find_root().command, [])
    return sorted(names)


def _is_flag(parameter: Any) -> bool:
    return bool(getattr(parameter, "is_flag", False))


def _is_many(parameter: Any) -> bool:
    return bool(parameter.multiple or parameter.nargs == -1)


def _is_comma_list(parameter: Any) -> bool:
    return str(parameter.metavar or "").endswith(",...")


def _from_file(value: Any, parameter: Any, where: str) -> Any:
    """A value of a file in the form in which the command line would give it."""
    if _is_flag(parameter) != isinstance(value, bool):
        raise UsageError(f"{where} is {value!r}", "give true or false" if _is_flag(parameter) else "give a value")
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        if _is_comma_list(parameter):
            return ",".join(map(str, value))
        if _is_many(parameter):
            return value
    if isinstance(value, list | dict):
        raise UsageError(f"{where} is {value!r}", "give a single value")
    if _is_many(parameter):
        return [value]
    return str(value) if _is_comma_list(parameter) else value


def load_sections(ctx: typer.Context, path: Path) -> dict[str, dict[str, Any]]:
    """Sections of a config file; :class:`UsageError` for one that no verb has, or that has no keys."""
    from scmap_cli.config import load_toml, nearest

    loaded = load_toml(path)
    known = _all_section_names(ctx)
    for name, section in loaded.items():
        if name not in known and not isinstance(section, dict):
            raise UsageError(f"{name!r} in {path} stands in no section", "write its section above it, such as [train]")
        if name not in known:
            raise UsageError(f"unknown section [{name}] in {path}", nearest(name, known))
        if not isinstance(section, dict):
            raise UsageError(f"{name!r} in {path} is not a section", f"write [{name}] and keys below it")
    return loaded


def apply_file(ctx: typer.Context, value: Path | None) -> Path | None:
    """Make the values of a config file the defaults of this call.

    Raises
    ------
    UsageError
        An unknown section or key (the message names the nearest known one), or a value of the wrong form.
    InputError
        The file cannot be read or is not TOML.
    """
    if value is None or ctx.resilient_parsing:
        return value
    from scmap_cli.config import check_keys

    loaded = load_sections(ctx, value)
    defaults: dict[str, Any] = {}
    sections = _sections(ctx)
    for name, parameters in sections.items():
        given = {str(key).replace("-", "_"): item for key, item in loaded.get(name, {}).items()}
        for key in given:
            other = [elsewhere for elsewhere, keys in sections.items() if key in keys]
            if key not in parameters and other:
                raise UsageError(f"{key!r} in {value} is not a key of [{name}]", f"it belongs in [{other[0]}]")
        check_keys(given, list(parameters), f"[{name}] of {value}")
        for key, item in given.items():
            defaults[parameters[key].name] = _from_file(item, parameters[key], f"{key} in [{name}] of {value}")
    ctx.default_map = defaults
    return value


def _to_file(value: Any, parameter: Any) -> Any:
    """A parsed value as TOML can hold it; None where nothing is set."""
    if _is_many(parameter):
        return [_to_plain(item) for item in value] if value else None
    kind = _NUMBER_LISTS.get(str(parameter.metavar))
    if kind is not None and value is not None:
        return numbers(str(value), f"--{key_of(parameter)}", kind)
    return _to_plain(value)


def _to_plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def effective(ctx: typer.Context) -> str:
    """All options of this call as TOML text that ``--config`` reads back."""
    from scmap_cli.config import dump_toml

    return dump_toml(
        {
            name: {key: _to_file(ctx.params.get(parameter.name), parameter) for key, parameter in parameters.items()}
            for name, parameters in _sections(ctx).items()
        }
    )


def given(ctx: typer.Context, panel: str) -> dict[str, Any]:
    """Values under one heading that a flag or a file set, by key; those left at their default are not in it."""
    found: dict[str, Any] = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if getattr(parameter, "rich_help_panel", None) == panel and source is not None and source.name != "DEFAULT":
            found[key_of(parameter)] = _to_file(ctx.params.get(str(parameter.name)), parameter)
    return found


def with_configs(ctx: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a verb that trains: those of model and training become ``model_options`` and ``train_options``.

    Only what a flag or a file has set is in these two, so that the defaults are the stage's.
    """
    panels = {parameter.name: getattr(parameter, "rich_help_panel", None) for parameter in ctx.command.params}
    rest = {name: value for name, value in options.items() if panels.get(name) not in ("Model", "Training")}
    return rest | {"model_options": given(ctx, "Model"), "train_options": given(ctx, "Training")}
