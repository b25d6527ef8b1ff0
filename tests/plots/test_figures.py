"""Figures: drawn whatever the data looks like, alike for equal data, as PNG or SVG by the name, without a display."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from scmap_cli.io.atomic import FIGURES
from scmap_cli.plots import draw, qc, scores
from scmap_cli.plots.canvas import new_figure, palette, publish, safely, save, short_names
from scmap_cli.plots.draw import dot_sizes, embedding, loss_curves
from scmap_cli.plots.imputation import BeforeAfter, before_after
from scmap_cli.plots.reconstruction import type_panels

RNG = np.random.default_rng(0)
XY = RNG.normal(size=(300, 2))
HISTORY = [{"epoch": i, "train_loss": 9.0 - i, "valid_loss": 8.0, "recon": 5.0, "valid_recon": 4.0} for i in (1, 2, 3)]
MANY = np.array([f"type {i} of a rather long name indeed" for i in range(75)])[np.arange(300) % 75]
INTEGRATION = [
    {
        "file": "a.h5ad",
        "embedding": name,
        "scores": {key: None if key == "kbet" else 0.5 for key, _ in scores.INTEGRATION},
        "details": {"batch_shares": {"edges": [0, 0.5, 1], "histogram": {"x": [0.2, 0.8], "y": [0.8, 0.2]}}},
        "subsamples": {"sd": {"pcr": 0.1}},
    }
    for name in ("X_sailer", "pca")
]
PARTITIONS = [{"k": k, "resolution": r, "clusters": 4, "ari": 0.5, "nmi": 0.6} for k in (15, 30) for r in (0.1, 1.0)]
DRAWN = {
    "categories": (embedding, XY, {"cell_type": MANY, "batch": np.where(XY[:, 0] > 0, "a", "b")}),
    "numbers": (embedding, XY, {"depth": np.where(XY[:, 0] > 0, np.nan, XY[:, 1]), "flat": np.zeros(300)}),
    "no numbers": (embedding, XY, {"depth": np.full(300, np.nan)}),
    "one cell": (embedding, XY[:1], {"batch": np.array(["a"])}),
    "loss": (loss_curves, HISTORY),
    "violins": (qc.violins, {"total_counts": RNG.lognormal(7, 1, 300), "frip": RNG.random(300)}, MANY),
    "one value": (qc.violins, {"pct_counts_mt": np.zeros(300)}, None),
    "no counts": (qc.violins, {"total_counts": np.zeros(300)}, None),
    "lengths": (qc.fragment_lengths, {"a": np.bincount([50, 60, 200]), "b": np.zeros(5)}),
    "profile": (qc.tss_profile, {"a": RNG.poisson(3, 4001), "b": np.zeros(4001)}),
    "depth": (qc.depth_dependence, np.column_stack([XY, np.zeros(300)]), np.exp(XY[:, 0]), ["one", "two", "three"]),
    "elbow": (qc.elbow, np.array([3.0, 1.0, 0.5])),
    "integration": (scores.integration_panels, INTEGRATION),
    "compared": (scores.score_bars, [{"run": "a", "x": 0.5}, {"run": "b", "x": None}], ["run", "x"], [{"x": 0.1}, {}]),
    "clustering": (
        scores.clustering_panels,
        [
            {"file": "a", "embedding": "e", "partitions": PARTITIONS, "n_labels": 3, "silhouette": None}
            | {"matched": {"ari": 0.5, "nmi": 0.6}, "subsamples": {"sd": {"matched.ari": 0.1}}}
        ],
    ),
    "genes": (
        scores.gene_bars,
        [
            {"data": "pairs.tsv", "split": "random", "embedding": "G" * 60, "auc": 0.7},
            {"data": "two lists", "embedding": "G" * 60, "auc": 0.6, "interval": [0.5, 0.7]},
            {"data": "scores.tsv", "embedding": "random vectors", "pearson": -0.2},
        ],
    ),
    "set sizes": (qc.set_sizes, np.array([5, 900, 0]), np.array([0, 400, 0]), np.array([False, True, False])),
    "motifs": (qc.variability, np.array([1.0, 3.0, 0.0]), ["M" * 60, "b", "c"]),
    "invariance": (
        scores.invariance_panels,
        [{"file": "a", "embedding": "e", "depth_mi": {"by_dimension": [0.1, 0.4]}}],
    ),
    "dice": (
        scores.dice_panels,
        [
            {
                "file": "a",
                "dice": {"raw": {"by_type": {"B": 0.4}}, "scale": {"by_type": {"B": 0.6}}},
                "by_profile": {"types": ["B"], "raw": [[0.1]], "imputed": [[None]]},
            }
        ],
    ),
    "reconstruction": (
        scores.reconstruction_panels,
        [
            {"name": "hvg", "overall": {"mse": {"mean": 0.4, "sd": None}, "mae": {"mean": 0.3, "sd": 0.01}}},
            {"name": "a.h5ad", "overall": {"mse": 0.5, "mae": 0.2}},
        ],
        {"a.h5ad": (np.arange(5.0), np.zeros(5)), "hvg": (np.zeros(5), np.zeros(5))},
    ),
    "classes of a reconstruction": (
        type_panels,
        *("a" * 60, np.array(["B", "T" * 40, "B", "T" * 40, "one"])),
        *(RNG.random((5, 7)), np.zeros((5, 7)), np.ones(7)),
    ),
    "two cells as rebuilt": (
        type_panels,
        *("hvg", np.array(["B", "T"]), np.zeros((2, 3)), np.zeros((2, 3)), None),
    ),
    "layouts": (
        draw.layouts,
        {"hvg, 5 genes": RNG.random((6, 2)), "hvg, 9 genes": RNG.random((6, 2))},
        np.array(["B", "T", "B", "T", "NK", "T" * 40]),
    ),
    "imputed": (
        before_after,
        BeforeAfter(
            *(RNG.random((30, 4)), RNG.random((30, 4)), np.array(["P" * 60, "b", "c", "d"])),
            *(RNG.random(9), RNG.random(9), "before: open", "after: probability", False, "30 of 99 cells", "peaks"),
        ),
    ),
    "nothing imputed": (
        before_after,
        BeforeAfter(
            *(np.zeros((1, 2)), np.zeros((1, 2)), np.array(["a", "b"]), np.zeros(2), np.zeros(2)),
            *("before", "after", True, "all 1 cells", "genes"),
        ),
    ),
    "programs": (scores.ranked_bars, np.array([4.0, -3.0]), ["P" * 60, "Q"], np.array([True, False])),
}


@pytest.mark.parametrize("name", list(DRAWN))
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_figure_is_drawn_alike_twice(tmp_path, name, ending):
    draw, *args = DRAWN[name]
    made = []
    for number in (1, 2):
        path = tmp_path / f"{number}.{ending}"
        draw(*args, path)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert made[0].startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert len(made[0]) > 2000


def test_names_lose_what_all_begin_with():
    assert short_names(["REACTOME_A_ONE", "REACTOME_A_TWO"]) == ["ONE", "TWO"]
    assert short_names(["PROGRAM1", "PROGRAM2"]) == ["PROGRAM1", "PROGRAM2"]
    assert short_names(["ONE_ALONE", "OTHER_ONE"]) == ["ONE_ALONE", "OTHER_ONE"]
    assert short_names(["REACTOME_ALONE"]) == ["REACTOME_ALONE"]
    assert short_names(["X_" + "a" * 60, "X_b"], 10) == ["aaaaaaa...", "b"]


def test_many_cells_stay_a_picture_within_an_svg(tmp_path):
    xy = RNG.normal(size=(30_000, 2))
    embedding(xy, {"depth": xy[:, 0]}, tmp_path / "u.svg")
    assert (tmp_path / "u.svg").stat().st_size < 400_000


def test_cells_that_lie_alone_have_larger_dots_than_those_of_a_crowd():
    crowd = RNG.normal(size=(20_000, 2))
    size_n = dot_sizes(np.vstack([crowd, [[9.0, 9.0]]]))
    middle = np.linalg.norm(crowd, axis=1) < 0.5
    assert size_n[-1] > 3 * size_n[:-1][middle].max()
    assert size_n[:-1][middle].mean() < size_n[:-1][~middle].mean()
    more = dot_sizes(np.vstack([crowd, crowd + 0.001, crowd + 0.002]))
    assert more.mean() < size_n.mean()
    assert dot_sizes(np.zeros((1, 2))).tolist() == dot_sizes(np.zeros((2, 2)))[:1].tolist() == [20.0]


def test_up_to_23_categories_have_colours_of_their_own():
    for count in (2, 8, 9, 21, 23, 60):
        assert len(
            {tuple(np.round(colour, 3)) if not isinstance(colour, str) else colour for colour in palette(count)}
        ) == (count)


def test_colours_stay_apart_without_red_or_green():
    from matplotlib.colors import to_rgb

    # Machado et al. 2009, severity 1: how a person without green or red cones sees a colour (linear light).
    deutan = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protan = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    rgb = np.array([to_rgb(colour) for colour in palette(8)]) ** 2.2
    for sight in (np.eye(3), deutan, protan):
        seen = np.clip(rgb @ sight.T, 0, 1) ** (1 / 2.2)
        apart = np.sqrt(((seen[:, None] - seen[None]) ** 2).sum(axis=2))
        assert apart[np.triu_indices(8, 1)].min() > 0.1


def test_a_figure_that_fails_leaves_nothing_and_only_warns(tmp_path, caplog):
    def broken(path):
        path.write_text("half")
        raise ValueError("why")

    publish(tmp_path / "f.png", False, "the figure", broken)
    assert list(tmp_path.iterdir()) == []
    assert "could not draw the figure: why" in caplog.text
    assert safely("it", lambda: None)


def test_no_display_is_asked_for(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from scmap_cli.plots.draw import embedding;"
        "embedding(np.zeros((3, 2)), {'a': np.array(['x', 'y', 'z'])}, Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, env=env, timeout=120)
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("ending", FIGURES)
def test_every_ending_is_drawn_the_same_at_another_time(tmp_path, monkeypatch, ending):
    written = []
    for when in ("100000", "200000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", when)
        save(new_figure(1, 1)[0], tmp_path / f"a{ending}")
        written.append((tmp_path / f"a{ending}").read_bytes())
    assert written[0] == written[1]
