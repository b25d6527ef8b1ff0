"""Figures of scores: of integrations, of several runs beside each other, and of what evaluations look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.plots.canvas import COLOURS, new_figure, palette, save, short, short_names

_MOST_ROWS, _MOST_SHARES = 24, 6
INTEGRATION = (
    ("pcr", "PC regression"),
    ("batch_asw", "batch ASW"),
    ("kbet", "kBET"),
    ("graph_connectivity", "graph connectivity"),
    ("ilisi", "iLISI"),
    ("batch_removal", "mean of batch removal"),
    ("clisi", "cLISI"),
    ("nmi", "NMI"),
    ("ari", "ARI"),
    ("label_asw", "label ASW"),
    ("label_conservation", "mean of label conservation"),
    ("overall", "overall (mean of nine)"),
    ("overall_weighted", "overall (.4 batch, .6 label)"),
)
"""Scores of an integration in the order that they are shown, and what they are called."""

_MEANS = ("batch_removal", "label_conservation", "overall", "overall_weighted")


def _clear(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _dots(
    axes: Any,
    measures: Sequence[tuple[str, str]],
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    spread: Sequence[Mapping[str, Any]],
) -> None:
    """Measures in lines, rows as dots with bars of one standard deviation; every row has a colour and a form."""
    colours, forms = palette(len(names)), "osD^vP*X"
    offsets = np.linspace(-0.28, 0.28, len(names)) if len(names) > 1 else [0.0]
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        known = [(line, row[key], spread[i].get(key)) for line, (key, _) in enumerate(measures) if _number(row, key)]
        places = np.array([line for line, _, _ in known]) + offsets[i]
        bars = [deviation or 0.0 for _, _, deviation in known]
        style = {"fmt": forms[i % len(forms)], "color": colours[i], "markersize": 4.5, "elinewidth": 1, "capsize": 2}
        axes.errorbar([value for _, value, _ in known], places, xerr=bars if any(bars) else None, label=name, **style)
    axes.set_yticks(np.arange(len(measures)), [text for _, text in measures])
    axes.set_ylim(len(measures) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.3)
    _clear(axes)


def _number(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool)


def integration_panels(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The nine scores and their means by embedding, and how batches are shared out among neighbours.

    Parameters
    ----------
    results
        Entries of ``evaluate integration``.
    path
        Where to write.
    """
    several = len({entry["file"] for entry in results}) > 1
    names = [f"{entry['file']} {entry['embedding']}" if several else str(entry["embedding"]) for entry in results]
    names = [short(name, 40) for name in names]
    spread = [entry.get("subsamples", {}).get("sd", {}) for entry in results]
    shared = results[:_MOST_SHARES]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, max(4.6, 1.15 * len(shared))), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1], squeeze=False)[0]
    axes = left.subplots()
    _dots(axes, INTEGRATION, [entry["scores"] for entry in results], names, spread)
    for line, (key, _) in enumerate(INTEGRATION):
        if key in _MEANS:
            axes.axhspan(line - 0.5, line + 0.5, color="0.94", zorder=0)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.02)
    axes.set_xlabel("score (1 is best)", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(len(names), 3))
    panels = np.atleast_1d(right.subplots(len(shared), 1, sharex=True))
    for panel, entry, name in zip(panels, shared, names, strict=False):
        _share_lines(panel, entry["details"]["batch_shares"], name)
    batches = len(shared[0]["details"]["batch_shares"]["histogram"])
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.12), "ncols": min(batches, 4)}
    panels[0].legend(fontsize=7, frameon=False, title="batch", title_fontsize=7, **place)
    panels[-1].set_xlabel("share of the batch among 50 neighbours, sizes levelled out", fontsize=8)
    save(figure, path)


def _share_lines(axes: Any, shares: Mapping[str, Any], title: str) -> None:
    batches = list(shares["histogram"])
    for name, colour in zip(batches, palette(len(batches)), strict=True):
        axes.stairs(shares["histogram"][name], shares["edges"], color=colour, label=short(name, 20), linewidth=1.2)
    axes.axvline(1 / len(batches), color="0.5", linewidth=0.8, linestyle=":")
    axes.set_title(title, fontsize=8, loc="left", pad=2)
    axes.set_ylabel("share of cells", fontsize=7)
    _clear(axes)


def score_bars(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], spread: Sequence[Mapping[str, float]], path: Path
) -> None:
    """Scores of several runs, one panel a measure, with bars of one standard deviation where there are any.

    Parameters
    ----------
    rows, columns, spread
        Of a table of :func:`scmap_cli.stages.compare.tabulate`.
    path
        Where to write.
    """
    shown = list(rows[:_MOST_ROWS])
    scores = [key for key in columns if key not in _COUNTS and any(_number(row, key) for row in shown)]
    scores = [key for key in scores if not key.endswith(".sd")][:12]
    texts = [" ".join(str(row[key]) for key in _NAMING if row.get(key)) for row in shown]
    wide = min(len(scores), 4)
    lines = -(-len(scores) // wide)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 2.4 * wide, lines * (0.9 + 0.26 * len(shown))), layout="constrained")
    panels = figure.subplots(lines, wide, squeeze=False, sharey=True)
    places, colours = np.arange(len(shown)), palette(len(shown))
    for number, axes in enumerate(panels.ravel()):
        if number >= len(scores):
            axes.set_visible(False)
            continue
        key = scores[number]
        values = [row[key] if _number(row, key) else np.nan for row in shown]
        bars = [deviations.get(key.removesuffix(".mean"), np.nan) for deviations in spread[: len(shown)]]
        axes.barh(places, values, xerr=bars if np.isfinite(bars).any() else None, color=colours, height=0.7, capsize=2)
        axes.set_yticks(places, [short(text, 34) for text in texts])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_title(key.replace("_", " "), fontsize=9)
        _clear(axes)
    save(figure, path)


_NAMING = ("run", "embedding", "method", "name", "k")
_COUNTS = ("cells", "cells_left_out", "dimensions", "batches", "labels", "n_labels", "k", "seed")


def clustering_panels(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """ARI, NMI and the number of clusters over the resolutions, and the scores of as many clusters as labels.

    ``results`` are entries of ``evaluate clustering``; the latter scores have bars where subsamples were scored.
    """
    from matplotlib.figure import Figure

    names = [short(f"{entry['file']} {entry['embedding']}", 40) for entry in results]
    figure = Figure(figsize=(9.5, 6.6))
    panels = figure.subplots(2, 2).ravel()
    widths = sorted({row["k"] for entry in results for row in entry["partitions"]})
    for axes, (key, text) in zip(panels[:3], (("ari", "ARI"), ("nmi", "NMI"), ("clusters", "clusters")), strict=True):
        for entry, name, colour in zip(results, names, palette(len(names)), strict=True):
            for style, k in zip(("-", "--", ":", "-."), widths, strict=False):
                found = [row for row in entry["partitions"] if row["k"] == k]
                label = name if len(widths) == 1 else f"{name}, k = {k}"
                at = [row["resolution"] for row in found]
                axes.plot(at, [row[key] for row in found], style, color=colour, label=label, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlabel("resolution", fontsize=9)
        axes.set_ylabel(text, fontsize=9)
        _clear(axes)
    for axes in panels[:2]:
        axes.set_ylim(min(axes.get_ylim()[0], 0.0), 1.0)
    panels[2].axhline(results[0]["n_labels"], color="0.5", linewidth=0.8, linestyle=":")
    place = (panels[2].get_xlim()[0], results[0]["n_labels"])
    panels[2].annotate("labels", place, fontsize=7, color="0.4", va="bottom")
    panels[0].legend(fontsize=7, frameon=False)
    matched = [entry["matched"] | {"silhouette": entry["silhouette"]} for entry in results]
    deviations = [entry.get("subsamples", {}).get("sd", {}) for entry in results]
    spread = [{key.removeprefix("matched."): value for key, value in found.items()} for found in deviations]
    measures = (("ari", "ARI"), ("nmi", "NMI"), ("silhouette", "silhouette"))
    _dots(panels[3], measures, matched, names, spread)
    panels[3].set_xlim(right=1.02)
    panels[3].set_title("clusters nearest in number to the labels", fontsize=9)
    figure.tight_layout()
    save(figure, path)


def invariance_panels(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Mutual information of each dimension with depth and batch; entries of ``evaluate invariance``."""
    measures = [key for key in ("depth_mi", "batch_mi") if key in results[0]]
    names = [short(f"{entry['file']} {entry['embedding']}", 40) for entry in results]
    figure, panels = new_figure(4.8 * len(measures), 3.8, len(measures))
    for axes, key in zip(panels, measures, strict=True):
        for entry, name, colour in zip(results, names, palette(len(names)), strict=True):
            values = np.sort(entry[key]["by_dimension"])[::-1]
            axes.plot(np.arange(1, len(values) + 1), values, "o-", color=colour, markersize=3, linewidth=1, label=name)
        axes.set_xlabel("dimensions, most informative first", fontsize=9)
        axes.set_ylabel(f"mutual information with {key.removesuffix('_mi')} (nats)", fontsize=9)
        axes.set_ylim(bottom=0)
        _clear(axes)
    panels[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    save(figure, path)


def dice_panels(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Dice scores by type and rule, and values by type and peaks of types before and after, a line a file.

    ``results`` are entries of ``evaluate imputation``.
    """
    from matplotlib.figure import Figure

    height = 1.6 + 0.3 * max(len(_types(entry)) for entry in results)
    figure = Figure(figsize=(13, height * len(results)), layout="constrained")
    lines = figure.subplots(len(results), 3, squeeze=False, width_ratios=[1.2, 1, 1])
    for (axes, *heat), entry in zip(lines, results, strict=True):
        types = _types(entry)
        rules = list(entry["dice"])
        for offset, (rule, colour) in enumerate(zip(rules, palette(len(rules)), strict=True)):
            values = [entry["dice"][rule]["by_type"].get(name, np.nan) for name in types]
            places = np.arange(len(types)) + 0.12 * (offset - (len(rules) - 1) / 2)
            axes.plot(values, places, "osD^vP*X"[offset % 8], color=colour, markersize=4.5, label=rule)
        axes.set_yticks(np.arange(len(types)), [short(name, 24) for name in types])
        axes.set_ylim(len(types) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("Dice score", fontsize=9)
        axes.set_title(short(str(entry.get("file", "")), 40), fontsize=9, loc="left")
        axes.grid(axis="x", linewidth=0.3)
        _clear(axes)
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for panel, name in zip(heat, ("raw", "imputed"), strict=True):
            _profile_map(figure, panel, entry["by_profile"], name)
    save(figure, path)


def _profile_map(figure: Any, axes: Any, found: Mapping[str, Any], name: str) -> None:
    values = np.array(found[name], dtype=np.float64)
    names, places = [short(text, 18) for text in found["types"]], np.arange(len(values))
    image = axes.imshow(values, cmap="viridis", vmin=0)
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("peaks of the type", fontsize=8)
    axes.set_ylabel("cells of the type", fontsize=8)
    axes.set_title({"raw": "before: mean of raw peaks", "imputed": "after: mean of imputed peaks"}[name], fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8)


def _types(entry: Mapping[str, Any]) -> list[str]:
    return list(next(iter(entry["dice"].values()))["by_type"])


def reconstruction_panels(
    results: Sequence[Mapping[str, Any]], variances: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path
) -> None:
    """Errors of an entry and of variances by source, and each gene's variance as it was and as rebuilt.

    Parameters
    ----------
    results
        Entries of ``evaluate reconstruction``.
    variances
        Of some or all of these by their names: (g,) before and after.
    path
        Where to write.
    """
    names = [str(entry["name"]) for entry in results]
    shown = [name for name in names if name in variances][:_MOST_SHARES]
    figure, panels = new_figure(3.4 * (1 + len(shown)), max(3.4, 0.26 * len(names) + 1.4), 1 + len(shown))
    axes, *scatters = panels
    colours = dict(zip(names, palette(len(names)), strict=True))
    for place, entry in enumerate(results):
        colour = colours[str(entry["name"])]
        for measure, form in (("mse", "o"), ("mae", "s")):
            value = entry["overall"][measure]
            mean, spread = (value["mean"], value["sd"]) if isinstance(value, Mapping) else (value, None)
            axes.errorbar([mean], [place], xerr=spread, fmt=form, color=colour, markersize=4.5, capsize=2)
    for measure, form in (("mean squared error", "o"), ("mean absolute error", "s")):
        axes.plot([], [], form, color="0.4", markersize=4.5, label=measure)
    axes.set_yticks(np.arange(len(names)), [short(name, 28) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.3)
    axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.0))
    _clear(axes)
    for axes, name in zip(scatters, shown, strict=True):
        before, after = variances[name]
        axes.scatter(before, after, s=5, linewidths=0, color=colours[name], rasterized=len(before) > 2000)
        # Variances of 0 or of rounding errors have no place on a logarithmic axis; below the smallest it is linear.
        ends = np.concatenate([before, after])
        smallest = max(ends[ends > 0].min(initial=1.0), 1e-6 * ends.max(initial=0.0))
        axes.set_xscale("symlog", linthresh=smallest)
        axes.set_yscale("symlog", linthresh=smallest)
        axes.axline((smallest, smallest), (10 * smallest, 10 * smallest), color="0.5", linewidth=0.8, linestyle=":")
        axes.set_title(short(name, 30), fontsize=9)
        axes.set_xlabel("variance of the gene", fontsize=8)
        axes.set_ylabel("variance as rebuilt", fontsize=8)
        _clear(axes)
    figure.tight_layout()
    save(figure, path)


def gene_bars(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel a task and split, a bar an embedding, with its interval where there is one.

    ``results`` are entries of ``evaluate genes``.
    """
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys((entry["data"], entry.get("split", "")) for entry in results))
    names = list(dict.fromkeys(str(entry["embedding"]) for entry in results))
    figure = Figure(figsize=(2.2 + 2.6 * len(tasks), 1.1 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    colours = dict(zip(names, palette(len(names)), strict=True))
    for axes, (data, split) in zip(panels, tasks, strict=True):
        shown = [entry for entry in results if (entry["data"], entry.get("split", "")) == (data, split)]
        measure = "pearson" if "pearson" in shown[0] else "auc"
        for entry in shown:
            value, name = entry[measure], str(entry["embedding"])
            low, high = entry.get("interval") or (value, value)
            bars = [[value - low], [high - value]] if high > low else None
            axes.barh(names.index(name), value, xerr=bars, color=colours[name], height=0.7, capsize=2)
        axes.set_xlim(min(0.0, *(entry[measure] for entry in shown)), 1)
        # What chance alone reaches.
        axes.axvline(0.5 if measure == "auc" else 0, color="0.4", linewidth=0.8, linestyle=":")
        axes.set_xlabel({"auc": "AUC", "pearson": "Pearson"}[measure], fontsize=9)
        axes.set_title("\n".join(filter(None, (short(str(data), 34), split))), fontsize=9)
        _clear(axes)
    panels[0].set_yticks(np.arange(len(names)), [short(name, 34) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    save(figure, path)


def ranked_bars(log_bf: np.ndarray, names: Sequence[str], up: np.ndarray, path: Path) -> None:
    """|log Bayes factors| of programs, strongest on top, coloured by the direction of their genes."""
    from matplotlib.patches import Patch

    figure, (axes,) = new_figure(5, 0.8 + 0.28 * max(len(names), 3))
    places = np.arange(len(names))
    colours = [COLOURS[5] if rises else COLOURS[0] for rises in up]
    axes.barh(places, np.abs(log_bf), color=colours)
    axes.set_yticks(places, short_names(names, 34))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(2.3, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xlabel("|log Bayes factor|", fontsize=9)
    handles = [Patch(color=COLOURS[5], label="up"), Patch(color=COLOURS[0], label="down or ambiguous")]
    axes.legend(handles=handles, frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    _clear(axes)
    save(figure, path)
