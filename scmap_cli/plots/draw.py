"""Figures of the stages: loss curves and embeddings, as PNG or SVG by the name's ending, without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from scmap_cli.io.atomic import atomic_file
from scmap_cli.runtime.logs import log

#: Okabe and Ito's colours, told apart with every common colour blindness, then a longer qualitative list
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def safely(what: str, draw: Callable[..., None], *args: Any, **options: Any) -> bool:
    """Draw; a failure is a warning, because a figure must not cost the results it shows."""
    try:
        draw(*args, **options)
    except Exception as error:  # noqa: BLE001
        log.warning("could not draw %s: %s", what, error)
        log.debug("reason", exc_info=True)
        return False
    return True


def publish(path: Path, force: bool, what: str, draw: Callable[..., None], *args: Any) -> None:
    """Draw into ``path`` as a whole or not at all; ``draw`` takes ``args`` and then the path.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`~scmap_cli.io.atomic.atomic_file`. A figure that cannot be drawn is only warned of.
    """
    with TemporaryDirectory(prefix="scmap-") as folder:
        drawn = Path(folder) / f"figure{path.suffix}"
        if safely(what, draw, *args, drawn):
            with atomic_file(path, force) as tmp:
                tmp.write_bytes(drawn.read_bytes())


def _save(figure: Any, path: Path) -> None:
    # No date in the file: equal runs give equal bytes.
    kind = path.suffix.lower().lstrip(".") or "png"
    metadata = {"Date": None} if kind in ("svg", "pdf") else {"Software": None}
    figure.savefig(path, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # A bare Figure needs no pyplot and so no backend, window or global state.
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def loss_curves(history: Sequence[Mapping[str, float]], path: Path, best: int = 0) -> None:
    """Training and validation loss by epoch, and the parts of the loss in a second panel.

    Parameters
    ----------
    history
        Rows with ``epoch``, ``train_loss`` and, with validation, ``valid_loss`` and ``valid_<part>``.
    path
        Where to write.
    best
        Epoch whose weights the model has, marked by a line.
    """
    figure, (left, right) = _figure(9, 3.4, 2)
    epochs = [row["epoch"] for row in history]
    held = "valid_loss" in history[0]
    left.plot(epochs, [row["train_loss"] for row in history], color=_COLOURS[0], label="training (annealed)")
    if held:
        left.plot(epochs, [row["valid_loss"] for row in history], color=_COLOURS[1], label="validation (final weights)")
    skip = {"epoch", "train_loss", "valid_loss", "lr"}
    parts = [key for key in history[0] if key not in skip and not key.startswith("valid_")]
    for colour, part in zip(_COLOURS[2:], parts, strict=False):
        key = f"valid_{part}" if held else part
        right.plot(epochs, [row[key] for row in history], color=colour, label=part)
    right.set_yscale("log")
    for axes, title in ((left, "loss per cell"), (right, f"parts per cell ({'validation' if held else 'training'})")):
        if best:
            axes.axvline(best, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def elbow_curve(weights: Sequence[float], gaps: Sequence[float], chosen: float, path: Path) -> None:
    """Final alignment by its weight, the chosen one marked.

    Parameters
    ----------
    weights, gaps
        Weights tried in rising order, and what each led to.
    chosen
        The weight taken.
    path
        Where to write.
    """
    figure, (axes,) = _figure(4.5, 3.2)
    axes.plot(weights, gaps, color=_COLOURS[0], marker="o", markersize=4)
    axes.axvline(chosen, color="0.6", linewidth=0.8, linestyle=":")
    # The first weight may be 0.
    axes.set_xscale("symlog", linthresh=min(w for w in weights if w > 0))
    axes.set_xlabel("alignment weight")
    axes.set_ylabel("final alignment (mean squared gap)")
    axes.set_title(f"chosen: {chosen:g}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def program_tests(
    log_bf: np.ndarray,
    names: Sequence[str],
    sides: Mapping[str, np.ndarray],
    threshold: float,
    title: str,
    path: Path,
    shown: int = 20,
) -> None:
    """Ranked |log Bayes factors| of programs, and how the first few are distributed in both groups.

    Parameters
    ----------
    log_bf, names
        Programs, strongest first; factors above 0 (more expression in the first group) are drawn in its colour.
    sides
        Two groups by name: (cells, programs) signed scores of the first programs, in the same order.
    threshold
        Drawn as a line.
    title
        What was compared.
    path
        Where to write.
    shown
        Bars at most.
    """
    figure, (left, right) = _figure(13, 0.28 * min(shown, len(names)) + 1.6, 2)
    strength = np.abs(log_bf[:shown])[::-1]
    labels = [_short(name) for name in names[:shown]][::-1]
    colours = [_COLOURS[5] if value > 0 else _COLOURS[0] for value in log_bf[:shown][::-1]]
    left.barh(np.arange(len(strength)), strength, color=colours)
    left.set_yticks(np.arange(len(strength)), labels, fontsize=7)
    left.axvline(threshold, color="0.4", linewidth=0.8, linestyle="--")
    left.set_xlabel("|log Bayes factor|")
    left.set_title(title, fontsize=9, loc="left")
    for offset, (name, scores) in enumerate(sides.items()):
        places = np.arange(scores.shape[1])[::-1] + (0.2 if offset == 0 else -0.2)
        parts = right.violinplot(
            list(scores.T), positions=places, orientation="horizontal", widths=0.38, showmedians=True
        )
        colour = _COLOURS[5] if offset == 0 else _COLOURS[0]
        for body in parts["bodies"]:
            body.set(facecolor=colour, alpha=0.7)
        for key in ("cbars", "cmins", "cmaxes", "cmedians"):
            parts[key].set(color=colour, linewidth=0.8)
        right.plot([], [], color=colour, linewidth=4, label=name)
    count = next(iter(sides.values())).shape[1]
    right.set_yticks(np.arange(count)[::-1], [_short(name) for name in names[:count]], fontsize=7)
    right.set_xlabel("score (posterior mean, up is more expression)")
    right.legend(fontsize=8, loc="best")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, path)


def _short(name: str, width: int = 42) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."


def _palette(count: int) -> list[Any]:
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    from matplotlib import colormaps

    if count <= 20:
        return [colormaps["tab20"](i) for i in range(count)]
    return [colormaps["turbo"](i / max(count - 1, 1)) for i in range(count)]


def embedding(xy_n2: np.ndarray, columns: Mapping[str, np.ndarray], path: Path) -> None:
    """A two-dimensional embedding, one panel a column: categories with a legend, numbers with a colour bar.

    Parameters
    ----------
    xy_n2
        Coordinates, (n, 2).
    columns
        Title and values of each panel, (n,) each; text is drawn as categories.
    path
        Where to write.
    """
    n = len(xy_n2)
    size = float(np.clip(30_000 / max(n, 1), 0.5, 20))
    order = np.random.default_rng(0).permutation(n)
    figure, panels = _figure(4.8 * len(columns), 4.0, len(columns))
    for axes, (title, values) in zip(panels, columns.items(), strict=True):
        values = np.asarray(values)
        options = {"s": size, "linewidths": 0, "rasterized": n > 2000}
        if values.dtype.kind in "fc":
            limit = np.nanquantile(values, [0.01, 0.99])
            dots = axes.scatter(
                *xy_n2[order].T, c=values[order], cmap="viridis", vmin=limit[0], vmax=limit[1], **options
            )
            figure.colorbar(dots, ax=axes, shrink=0.7)
        else:
            names, codes = np.unique(values.astype(str), return_inverse=True)
            names, codes = _natural(names, codes)
            colours = np.array([_rgba(c) for c in _palette(len(names))])
            axes.scatter(*xy_n2[order].T, c=colours[codes[order]], **options)
            _legend(axes, names, colours)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("UMAP 1", fontsize=8)
        axes.set_ylabel("UMAP 2", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, path)


def _natural(names: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names in the order of their numbers when all are numbers, so that cluster 10 follows cluster 9."""
    if not all(name.isdigit() for name in names):
        return names, codes
    order = np.argsort(names.astype(int), kind="stable")
    return names[order], np.argsort(order)[codes]


def _rgba(colour: Any) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def _legend(axes: Any, names: np.ndarray, colours: np.ndarray) -> None:
    from matplotlib.lines import Line2D

    shown = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            markersize=5,
            color=colour,
            label=name if len(name) < 28 else name[:27] + "…",
        )
        for name, colour in zip(names, colours, strict=True)
    ]
    columns = 1 + len(names) // 18
    axes.legend(handles=shown, frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)
