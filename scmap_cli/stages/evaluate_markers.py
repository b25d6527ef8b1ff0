"""``scmap evaluate markers``: how well chosen genes tell the classes of unseen cells, over seeded splits.

Genes of ``--method`` are chosen anew from the training cells of every split, for every number of genes and every share
of wrong labels. Label noise follows the paper's two designs (Fig. 2 B and C): the classifier learns from the same wrong
labels that the genes were chosen by (``everywhere``), or from the right ones (``selection``). Test labels are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.markers.base import Selection, run_selector
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.markers import CLASSIFIERS, KNN_K, TREES, class_scores, overall_scores
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.draw import layouts as draw_layouts
from scmap_cli.plots.markers import evaluation_panels
from scmap_cli.registry import get_selector
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.marker_tables import MarkerTable, check_table, read_markers
from scmap_cli.stages.panel import Fold, Panel, check_classes, check_selectors, check_splits, load_panel, spread
from scmap_cli.stages.scores import check_sources, render
from scmap_cli.stages.views import umap_layout

EVERYWHERE, SELECTION = "everywhere", "selection"
"""Where wrong labels are: in all training, or in choosing genes alone."""

WHERE = {EVERYWHERE: "in all training", SELECTION: "in choosing genes"}
"""The same in words."""

UMAP_NEIGHBORS, UMAP_MIN_DIST = 50, 0.1
"""Of the UMAPs in the paper's Fig. 3 A and B."""


@dataclass(frozen=True)
class _Case:
    """One source of genes, number of genes and share of wrong labels."""

    name: str
    k: int
    noise: float
    table: MarkerTable | None


def evaluate_markers(
    input: Path,
    output: Path | str = "-",
    *,
    label_key: str | None = None,
    exclude_labels: Sequence[str] = (),
    method: Sequence[str] = (),
    markers: Sequence[Path] = (),
    as_published: bool = False,
    k: int | None = None,
    k_grid: Sequence[int] = (),
    label_noise: Sequence[float] = (),
    splits: int = 10,
    confusion_output: Path | None = None,
    plot: Path | None = None,
    plot_umap: Path | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score genes by classifiers of unseen cells.

    Parameters
    ----------
    input
        Raw counts with labels.
    output
        JSON file; ``-`` writes none, and the caller prints
        :func:`~scmap_cli.stages.scores.render` of the result.
    label_key, exclude_labels
        ``obs`` column of the classes, and classes whose cells are left out.
    method
        Selectors to choose genes by.
    markers
        Tables of ``select-markers``. One without a column ``split`` serves for all splits.
    as_published
        Run the methods as the MarkerMap paper did.
    k
        Number of genes: 50 of a method, all of a table by default.
    k_grid
        Numbers of genes, instead of ``k``.
    label_noise
        Also with these shares of the training labels drawn anew from all classes; methods only.
    splits
        Number of seeded, stratified 70/10/20 splits.
    confusion_output
        Also write the confusion matrices without noise, summed over splits, as TSV.
    plot
        Also draw the confusion matrix of the first source, and accuracy by number of genes and by noise.
    plot_umap
        Also draw a UMAP of the cells by the first source's genes for every number of genes, as in the paper's Fig. 3 A:
        all cells, by genes that the training cells of the first split chose.
    layer, gene_column
        As in :func:`scmap_cli.stages.inputs.load_rna`.
    device
        Where methods of MarkerMap are trained; the others run on the CPU.
    seed, force, dry_run
        As elsewhere.

    Returns
    -------
    dict
        ``settings`` and ``results``: an entry a source, number of genes, noise and design.

    Raises
    ------
    UsageError
        Options that make no sense, an unknown method, or a table made with another seed.
    InputError
        A key is missing, a class too small, a gene unknown.
    """
    if not method and not markers:
        raise UsageError("nothing to evaluate", "name a method with --method, or a table with --markers")
    if label_key is None:
        raise UsageError("missing --label-key", "name the column of the classes")
    check_splits(splits)
    check_sources([*set(method), *(path.name for path in markers)])
    wrong = [share for share in label_noise if not 0 <= share <= 1]
    if wrong:
        raise UsageError(f"--label-noise is a share between 0 and 1, not {wrong[0]}")
    if label_noise and not method:
        raise UsageError("--label-noise is about choosing genes", "name a method with --method")
    if as_published and not method:
        raise UsageError("--as-published is about choosing genes", "name a method with --method")
    if k is not None and k_grid:
        raise UsageError("-k says nothing with --k-grid", "give one of them")
    grid = tuple(sorted(set(k_grid))) or (() if k is None else (k,))
    if grid and grid[0] < 1:
        raise UsageError(f"a number of genes must be at least 1, not {grid[0]}")
    to_file = text_file(output)
    check_outputs(to_file, confusion_output, figures=[plot, plot_umap], force=force)
    specs = [get_selector(name) for name in method]
    tables = [read_markers(path) for path in markers]
    for table in tables:
        check_table(table, seed, splits, grid)
    panel = load_panel(input, label_key=label_key, exclude_labels=exclude_labels, layer=layer, gene_column=gene_column)
    check_classes(panel)
    if len(panel.classes) < 2:
        raise InputError(f"all cells are of the class {panel.classes[0]!r}", "give labels of at least two kinds")
    for table in tables:
        for genes in table.genes.values():
            panel.columns(genes, str(table.path))
    check_selectors(panel, specs, max(grid or (50,)), device)
    noises = tuple(sorted({0.0, *label_noise}))
    cases = [_Case(spec.name, size, noise, None) for spec in specs for size in grid or (50,) for noise in noises]
    cases += [
        _Case(table.path.name, size, 0.0, table)
        for table in tables
        for size in grid or (min(map(len, table.genes.values())),)
    ]
    settings: dict[str, Any] = {
        "label_key": label_key,
        "exclude_labels": list(exclude_labels),
        "splits": splits,
        "shares": "70 % training, 10 % validation, 20 % test, stratified by class",
        "values": "log1p CP10k, scaled by the training and validation cells, clipped at 10",
        "classifiers": {"knn": f"{KNN_K} neighbours, Euclidean", "random-forest": f"{TREES} trees"},
        "misclassification": "mean over classes of 1 - TP / (TP + FP), 1 for a class never predicted",
        "label_noise": [noise for noise in noises if noise],
        "as_published": as_published,
        "seed": seed,
    }
    result: dict[str, Any] = {"what": "markers", "settings": settings, "results": []}
    if dry_run:
        log.info("would score %d sets of genes on %d splits of %d cells", len(cases), splits, panel.counts.shape[0])
        return result
    sources = {"method": list(method), "markers": [path.name for path in markers], "k_grid": list(grid)}
    with provenance.run(
        "evaluate markers",
        inputs=[input, *markers],
        output=to_file,
        parameters={**settings, **sources, "layer": layer, "gene_column": gene_column},
        seed=seed,
    ) as run:
        chosen: dict[_Case, np.ndarray] = {}
        found = _collect(panel, cases, splits, seed, {"as_published": as_published, "device": device}, chosen)
        for case in cases:
            for design in (EVERYWHERE, SELECTION) if case.noise else (None,):
                entry = _entry(panel, case, design, found[case, design])
                log.info("%s", _line(entry))
                result["results"].append(entry)
        result["history"] = [run.record]
        clean = [(case, found[case, None]) for case in cases if not case.noise]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if confusion_output is not None:
            write_text(confusion_output, _confusion_table(panel, clean), force)
        if plot is not None:
            _draw(panel, result["results"], clean, plot, force)
        if plot_umap is not None:
            shown = {
                f"{case.name}, {case.k} genes": genes for case, genes in chosen.items() if case.name == cases[0].name
            }
            layouts = {title: _layout(Fold(panel, 0, seed), genes) for title, genes in shown.items()}
            publish(plot_umap, force, "the UMAPs", draw_layouts, layouts, np.array(panel.classes)[panel.strata])
    return result


def _layout(fold: Fold, genes: np.ndarray) -> np.ndarray:
    """UMAP of all cells by their scaled values of some genes, (n, 2)."""
    values_nk = fold.scaling.apply(fold.panel.log1p, genes)
    return umap_layout(values_nk, *knn(values_nk, UMAP_NEIGHBORS, fold.seed), fold.seed, UMAP_MIN_DIST)


def _collect(
    panel: Panel,
    cases: Sequence[_Case],
    splits: int,
    seed: int,
    how: dict[str, Any],
    chosen: dict[_Case, np.ndarray],
) -> dict[tuple[_Case, str | None], list[dict[str, np.ndarray]]]:
    """Confusion matrices by case and design, a dict by classifier for each split.

    ``how`` is what selectors are told beside the data; ``chosen`` is given the genes of the first split.
    """
    found: dict[tuple[_Case, str | None], list[dict[str, np.ndarray]]] = {}
    for number in range(splits):
        fold = Fold(panel, number, seed)
        made: dict[tuple[str, float, int], Selection] = {}
        for case in cases:
            # Where fewer genes are the first of more, one choice serves all sizes.
            most = max(one.k for one in cases if one.name == case.name) if _nested(case) else case.k
            for design, confusions in _score(panel, fold, case, most, how, made, chosen):
                found.setdefault((case, design), []).append(confusions)
        log.info("split %d of %d is done", number + 1, splits)
    return found


def _nested(case: _Case) -> bool:
    return case.table is None and get_selector(case.name).nested


def _score(
    panel: Panel,
    fold: Fold,
    case: _Case,
    most: int,
    how: dict[str, Any],
    made: dict[tuple[str, float, int], Selection],
    chosen: dict[_Case, np.ndarray],
) -> Iterator[tuple[str | None, dict[str, np.ndarray]]]:
    if case.table is not None:
        genes = panel.columns(case.table.of_split(fold.number)[: case.k], str(case.table.path))
        chosen.setdefault(case, genes)
        yield None, fold.confusions(genes)
        return
    noisy = fold.noisy_codes(case.noise) if case.noise else None
    key = (case.name, case.noise, most)
    if key not in made:
        made[key] = run_selector(get_selector(case.name), fold.data(noisy), most, seed=fold.seed, **how)
    genes = made[key].first(case.k).genes
    if noisy is None:
        chosen.setdefault(case, genes)
        yield None, fold.confusions(genes)
    else:
        yield EVERYWHERE, fold.confusions(genes, noisy)
        yield SELECTION, fold.confusions(genes)


def _entry(panel: Panel, case: _Case, design: str | None, splits: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": case.name,
        "source": "method" if case.table is None else "table",
        "k": case.k,
        "label_noise": case.noise,
        "design": design,
    }
    for classifier in CLASSIFIERS:
        scored = [overall_scores(one[classifier]) for one in splits]
        each = [class_scores(one[classifier]) for one in splits]
        entry[classifier] = {key: spread([one[key] for one in scored]) for key in scored[0]} | {
            "classes": {
                name: {key: float(np.mean([one[key][code] for one in each])) for key in each[0]}
                for code, name in enumerate(panel.classes)
            }
        }
    return entry


def _line(entry: dict[str, Any]) -> str:
    def text(classifier: str) -> str:
        accuracy, f1 = entry[classifier]["accuracy"], entry[classifier]["macro_f1"]["mean"]
        sd = "" if accuracy["sd"] is None else f" ± {accuracy['sd']:.3f}"
        return f"{classifier} accuracy {accuracy['mean']:.3f}{sd}, macro F1 {f1:.3f}"

    noise = f", {entry['label_noise']:g} of labels drawn anew {WHERE[entry['design']]}" if entry["design"] else ""
    return f"{entry['name']}, {entry['k']} genes{noise}: {'; '.join(text(one) for one in CLASSIFIERS)}"


def _confusion_table(panel: Panel, clean: Sequence[tuple[_Case, Sequence[dict[str, np.ndarray]]]]) -> str:
    lines = ["name\tk\tclassifier\ttrue\tpredicted\tcells"]
    for case, splits in clean:
        for classifier in CLASSIFIERS:
            total = np.sum([one[classifier] for one in splits], axis=0)
            lines += [
                f"{case.name}\t{case.k}\t{classifier}\t{true}\t{predicted}\t{total[i, j]}"
                for i, true in enumerate(panel.classes)
                for j, predicted in enumerate(panel.classes)
            ]
    return "\n".join(lines) + "\n"


def _draw(
    panel: Panel,
    results: Sequence[dict[str, Any]],
    clean: Sequence[tuple[_Case, Sequence[dict[str, np.ndarray]]]],
    path: Path,
    force: bool,
) -> None:
    rows = [
        {key: entry[key] for key in ("name", "k", "label_noise", "design", "source")} | {"accuracy": value}
        for entry in results
        for value in entry["knn"]["accuracy"]["values"]
    ]
    curves = []
    by_k = [row for row in rows if row["design"] is None]
    if len({row["k"] for row in by_k}) > 1:
        curves.append(("k", by_k))
    largest = max(row["k"] for row in rows)
    # Without noise both designs are the same, so that both curves begin there.
    noisy = [
        row | {"name": f"{row['name']}, {text}"}
        for design, text in WHERE.items()
        for row in rows
        if row["design"] in (design, None) and row["k"] == largest and row["source"] == "method"
    ]
    if len({row["label_noise"] for row in noisy}) > 1:
        curves.append(("label_noise", noisy))
    case, splits = max((one for one in clean if one[0].name == clean[0][0].name), key=lambda one: one[0].k)
    total = np.sum([one["knn"] for one in splits], axis=0)
    title = f"{case.name}, {case.k} genes, {KNN_K} neighbours"
    publish(path, force, "the scores", evaluation_panels, total, panel.classes, title, curves)
