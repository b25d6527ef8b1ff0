"""Parts of a report about marker genes: benchmarks, accuracies on unseen cells, and genes rebuilt from the markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scmap_cli.metrics.markers import CLASSIFIERS
from scmap_cli.plots.markers import score_curves
from scmap_cli.plots.page import details, figure, grid, table
from scmap_cli.plots.scores import reconstruction_panels
from scmap_cli.stages.evaluate_markers import WHERE
from scmap_cli.stages.marker_jobs import MEASURES, job_name
from scmap_cli.stages.report_files import Part

_CLASSIFIERS = dict(zip(CLASSIFIERS, ("5 neighbours", "random forest"), strict=True))
_WORDS = {
    "knn_accuracy": "accuracy, 5 neighbours",
    "rf_accuracy": "accuracy, random forest",
    "knn_macro_f1": "macro F1, 5 neighbours",
    "rf_macro_f1": "macro F1, random forest",
    "mse": "mean squared error",
}
"""Measures of a benchmark that are shown, those of a picture first."""

_DRAWN = ("knn_accuracy", "rf_accuracy", "mse")
_REBUILT = ("mse", "mae", "jaccard", "spearman", "l2", "l1")


def is_benchmark(header: Sequence[str]) -> bool:
    """Whether a table has the columns of ``select-markers --benchmark``."""
    return {"method", "as_published", "k", "split", *MEASURES} <= set(header)


def describe_benchmark(part: Part, header: Sequence[str], rows: Sequence[Sequence[str]], whole: str) -> None:
    """Means over splits by method and number of genes, a picture of them, and the table itself folded away."""
    jobs = []
    for row in rows:
        told = dict(zip(header, row, strict=True))
        job: dict[str, Any] = {key: float(told[key]) for key in MEASURES if told[key]}
        jobs.append(job | {"method": told["method"], "as_published": told["as_published"] == "true", "k": told["k"]})
    for job in jobs:
        job |= {"name": job_name(job), "k": int(job["k"])}
    shown = [key for key in _WORDS if any(key in job for job in jobs)]
    cases = list(dict.fromkeys((job["name"], job["k"]) for job in jobs))
    body = []
    for name, k in cases:
        ours = [job for job in jobs if (job["name"], job["k"]) == (name, k)]
        body.append([name, k, len(ours), *(_over([job[key] for job in ours if key in job]) for key in shown)])
    part.add("Markers", table(["method", "genes", "splits", *(_WORDS[key] for key in shown)], body))
    drawn = [key for key in _DRAWN if key in shown]
    curves = [job | {_WORDS[key]: job[key] for key in drawn} | {"genes": job["k"]} for job in jobs]
    words = [_WORDS[key] for key in drawn]
    names = list(dict.fromkeys(job["name"] for job in jobs))
    caption = f"{part.name}: mean over splits, with one standard deviation"
    part.add("Markers", grid([figure(caption, score_curves, curves, names, "genes", words, wide=True)]))
    part.add("Markers", details("Every split", whole))


def is_accuracy(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether entries are those of ``evaluate markers``."""
    return all(
        {"name", "k", "label_noise", "design"} <= set(entry)
        and all(isinstance(entry.get(one), Mapping) and "accuracy" in entry[one] for one in CLASSIFIERS)
        for entry in entries
    )


def describe_accuracy(part: Part, entries: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy, macro F1 and misclassification of both classifiers, and accuracy by number of genes or by noise."""
    noisy = any(entry["label_noise"] for entry in entries)
    measures = {"accuracy": "accuracy", "macro_f1": "macro F1", "misclassification": "misclassification"}
    header = ["genes of", "genes", *(["wrong labels", "where"] if noisy else [])]
    header += [f"{word}, {_CLASSIFIERS[one]}" for one in CLASSIFIERS for word in measures.values()]
    rows = [
        [
            *(entry["name"], entry["k"], *([entry["label_noise"], WHERE.get(entry["design"], "-")] if noisy else [])),
            *(_spread(entry[one].get(measure)) for one in CLASSIFIERS for measure in measures),
        ]
        for entry in entries
    ]
    part.add("Scores", table(header, rows))
    largest = max(entry["k"] for entry in entries)
    across = "share of wrong labels" if noisy else "genes"
    words = [f"accuracy, {_CLASSIFIERS[one]}" for one in CLASSIFIERS]
    curves: list[dict[str, Any]] = []
    for entry in entries:
        if noisy and entry["k"] != largest:
            continue
        # Without noise both designs are the same, so that both curves begin there.
        designs = [WHERE[entry["design"]]] if entry["design"] else list(WHERE.values())
        lists = [_values(entry[one]["accuracy"]) for one in CLASSIFIERS]
        for name in [f"{entry['name']}, {design}" for design in designs] if noisy else [entry["name"]]:
            told = {"name": name, across: entry["label_noise"] if noisy else entry["k"]}
            curves += [told | dict(zip(words, values, strict=True)) for values in zip(*lists, strict=True)]
    names = list(dict.fromkeys(row["name"] for row in curves))
    caption = f"{part.name}: accuracy on unseen cells" + (f", {largest} genes" if noisy else "")
    part.add("Scores", grid([figure(caption, score_curves, curves, names, across, words, wide=True)]))
    best = max(entries, key=lambda entry: float(np.mean(_values(entry[CLASSIFIERS[0]]["accuracy"]))))
    part.numbers["best_accuracy"] = float(np.mean(_values(best[CLASSIFIERS[0]]["accuracy"])))


def is_reconstruction(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether entries are those of ``evaluate reconstruction``."""
    return all("name" in entry and isinstance(entry.get("overall"), Mapping) for entry in entries)


def describe_reconstruction(part: Part, entries: Sequence[Mapping[str, Any]]) -> None:
    """Errors of every reconstruction, and a picture of them."""
    keys = [key for key in _REBUILT if any(entry["overall"].get(key) is not None for entry in entries)]
    rows = [
        [entry["name"], entry.get("map"), entry.get("k"), *(_spread(entry["overall"].get(key)) for key in keys)]
        for entry in entries
    ]
    part.add("Scores", table(["genes of", "map", "genes", *keys], rows))
    if len(entries) > 1:
        part.add("Scores", grid([figure(f"{part.name}: errors", reconstruction_panels, entries, {})]))
    if len(entries) == 1:
        part.numbers |= {key: float(np.mean(_values(entries[0]["overall"][key]))) for key in keys}


def _values(found: Any) -> list[float]:
    """The values behind a mean, or a single one."""
    return list(found["values"]) if isinstance(found, Mapping) else [found]


def _spread(found: Any) -> Any:
    return (found.get("mean"), found.get("sd")) if isinstance(found, Mapping) else found


def _over(values: Sequence[float]) -> Any:
    if not values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
