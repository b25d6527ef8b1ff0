"""How ``select-markers`` trains MarkerMap: by which settings, and where a stopped run is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from scmap_cli.config import build, load_toml
from scmap_cli.errors import StoppedError, UsageError
from scmap_cli.markers.base import Selection
from scmap_cli.models.markermap import MarkerMapConfig
from scmap_cli.stages.marker_model import MODES, read_selection
from scmap_cli.stages.panel import Panel
from scmap_cli.stages.train_markermap import train_markermap


def read_settings(path: Path | None) -> dict[str, dict[str, Any]]:
    """``[model]`` and ``[train]`` of a file of settings; sections of other verbs are passed over.

    Raises
    ------
    UsageError
        There is a section ``[data]``, whose keys are options of ``select-markers``, or a section has no keys.
    """
    found: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    for name, section in ({} if path is None else load_toml(path)).items():
        if name == "data":
            raise UsageError(f"[data] of {path} says nothing with --model-config", "give its keys as options")
        if name in found:
            if not isinstance(section, dict):
                raise UsageError(f"{name!r} in {path} is not a section", f"write [{name}] and keys below it")
            found[name] = {key.replace("-", "_"): value for key, value in section.items()}
    return found


def of_settings(
    method: str, k: int | None, mode: str | None, settings: dict[str, Any], path: Path | None
) -> tuple[str, int]:
    """Form of the method and number of genes: as the options say, else as ``[model]`` of the file does."""
    told = build(MarkerMapConfig, settings, where=f"[model] of {path}")
    k = told.k if k is None else k
    if method == "markermap":
        return _of_mode(told.mode if mode is None else mode), k
    if mode is not None:
        raise UsageError(f"--mode says nothing for the method {method}", "it is for --method markermap")
    if "mode" in settings and told.mode != MODES.get(method):
        raise UsageError(f"mode is {told.mode!r} in {path}, which is not that of the method {method}", "leave one out")
    return method, k


def _of_mode(mode: str) -> str:
    """The form of the method that a mode is short for."""
    names = {of: name for name, of in MODES.items()}
    if mode not in names:
        raise UsageError(f"--mode is {mode!r}", f"choose one of {', '.join(names)}")
    return names[mode]


def kept_beside(output: Path | None) -> Path | None:
    """The hidden folder beside an output that holds the training while it lasts."""
    return None if output is None else output.with_name(f".{output.name}.partial")


def check_training(panel: Panel, model_out: Path | None, force: bool, given: Mapping[str, Any]) -> None:
    """Raise what :func:`train_selection` would raise before it trains."""
    with tempfile.TemporaryDirectory(prefix="scmap-") as scratch:
        train_markermap(panel.path, model_out or Path(scratch) / "model", force=force, dry_run=True, **given)


def train_selection(
    panel: Panel, model_out: Path | None, kept: Path | None, force: bool, given: Mapping[str, Any]
) -> Selection:
    """Train as ``train markermap`` does, and read the markers from the model directory.

    Parameters
    ----------
    panel
        The cells.
    model_out
        Where the directory stays, if anywhere.
    kept
        The folder of :func:`kept_beside` that holds it otherwise, for the caller to remove at the end; what a stopped
        run leaves there the same command goes on from. None where no output is a file: a stop then saves nothing.
    force
        Replace ``model_out``.
    given
        Other arguments of :func:`scmap_cli.stages.train_markermap.train_markermap`.
    """
    if model_out is not None:
        train_markermap(panel.path, model_out, force=force, **given)
        return read_selection(model_out, panel)
    if kept is not None:
        kept.mkdir(exist_ok=True)
        try:
            # Outputs were checked before; what a run of other settings left here is of no use to this one.
            train_markermap(panel.path, kept / "model", force=True, **given)
        finally:
            # Where nothing was saved.
            with suppress(OSError):
                kept.rmdir()
        return read_selection(kept / "model", panel)
    with tempfile.TemporaryDirectory(prefix="scmap-") as scratch:
        folder = Path(scratch) / "model"
        try:
            train_markermap(panel.path, folder, **given)
        except StoppedError as error:
            # Its checkpoint goes with the folder, so that there is nothing to go on from.
            raise KeyboardInterrupt from error
        return read_selection(folder, panel)
