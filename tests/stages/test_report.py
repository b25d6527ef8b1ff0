"""``report``: one page that needs nothing else, whose texts cannot become markup, and what it points at."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli import keys
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.plots import page
from scmap_cli.stages.embed import embed
from scmap_cli.stages.evaluate_integration import evaluate_integration
from scmap_cli.stages.evaluate_markers import evaluate_markers
from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction
from scmap_cli.stages.gp_test import gp_test
from scmap_cli.stages.report import report
from scmap_cli.stages.select_markers import select_markers


class Page(HTMLParser):
    """What a page loads, links to and holds; void elements aside, every tag must be closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        self.alts += [found["alt"]] if "alt" in found else []
        assert not any(name.startswith("on") for name in found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def inputs(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    embedded = folder / "embedded.h5ad"
    embed(trained.model, trained.data, embedded, umap=True, cluster_method="leiden")
    scores, tests = folder / "scores.json", folder / "tests.tsv"
    evaluate_integration([embedded], scores, label_key="cell_type", batch_key="batch", baseline=["pca"], components=5)
    gp_test(trained.model, [trained.data], tests, groupby="cell_type")
    return [trained.model, embedded, scores, tests]


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "run.html"
    return report(inputs, output, title="A <run>"), output


BROWSER = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)
# The page itself allows no script, so a copy measures: what sticks out to the right, and pictures that did not load.
MEASURE = """<script>onload = () => {
  const broken = [...document.images].filter(i => !(i.complete && i.naturalWidth)).length;
  const wide = [...document.querySelectorAll("figure.wide")];
  const hint = f => getComputedStyle(f.querySelector("figcaption"), "::after").content;
  const told = wide.filter(f => hint(f).includes("sideways"));
  const cut = wide.filter(f => f.firstChild.scrollWidth > f.firstChild.clientWidth);
  document.title = [document.documentElement.scrollWidth, innerWidth, document.images.length, broken,
    wide.length, cut.length, told.length].join(" ");
}</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_sideways_scrolling(made, tmp_path, width):
    text, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", made[1].read_text())
    assert policies == 1
    copy = tmp_path / "copy.html"
    copy.write_text(text + MEASURE)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = map(int, re.search(r"<title>([\d ]+)</title>", dom)[1].split())
    needed, shown, pictures, broken, wide, cut, told = found
    assert needed <= shown
    assert pictures > 0
    assert broken == 0
    # What a narrow screen cuts says so.
    assert wide > 0
    assert cut == told == (wide if width < 700 else 0)


def test_the_page_needs_nothing_but_itself(made):
    result, output = made
    text = output.read_text()
    found = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert all(link.removeprefix("#") in found.ids for link in found.links)
    assert len(found.ids) == len(set(found.ids))
    assert found.tags.isdisjoint({"script", "link", "iframe", "object", "form", "base"})
    assert "http" not in re.sub(r'content="default-src[^"]*"|http-equiv', "", text)
    assert 'name="viewport"' in text
    assert "@media print" in text
    assert all(found.alts)
    assert len(found.alts) == len(found.sources) > 6
    assert result["bytes"] == len(text.encode()) < 5e6


def test_the_page_tells_what_was_run_and_what_came_of_it(made):
    _, output = made
    found = Page(output.read_text())
    for words in (
        "A <run>",
        "train expimap",
        "evaluate integration",
        "overall (.4 batch, .6 label)",
        "validation_cells",
        "type1",
    ):
        assert words in found.words, words
    assert {"to-look-at", "cells", "models", "pictures", "programs", "scores", "what-was-run"} <= set(found.ids)


def test_numbers_for_multiqc_lie_beside(made):
    result, output = made
    table = json.loads(output.with_name("run_mqc.json").read_text())
    assert result["multiqc"] == str(output.with_name("run_mqc.json"))
    assert table["plot_type"] == "table"
    assert table["data"]["embedded.h5ad"]["cells"] == 300
    assert 0 < table["data"]["scores.json"]["overall_X_expimap"] < 1
    numbers = [value for row in table["data"].values() for value in row.values()]
    assert all(isinstance(value, int | float) for value in numbers)
    assert set(table["headers"]) == {name for row in table["data"].values() for name in row}


def test_the_same_inputs_give_the_same_bytes(made, inputs, tmp_path):
    _, output = made
    report(inputs, tmp_path / "run.html", title="A <run>")
    assert (tmp_path / "run.html").read_bytes() == output.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.html.run.json", "run_mqc.json"]
    with pytest.raises(OutputExistsError):
        report(inputs, tmp_path / "run.html")


def cells(path, n=60, **columns):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": np.where(np.arange(n) % 2, "a", "b")} | columns, index=[f"c{i}" for i in range(n)])
    counts = sparse.csr_matrix(rng.poisson(1.0, (n, 5)).astype(np.float32))
    made = anndata.AnnData(counts, obs=obs, obsm={"X_umap": rng.normal(size=(n, 2))})
    made.var_names = [f"G{i}" for i in range(5)]
    made.write_h5ad(path)
    return path


def test_text_of_files_stays_text(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=y>"
    data = cells(tmp_path / "e.h5ad", **{keys.LABEL: [evil] * 60, "batch": [evil] * 60, "total_counts": np.ones(60)})
    (tmp_path / "t.tsv").write_text(f"gene\trank\n{evil}\t1\n")
    (tmp_path / "s.json").write_text(json.dumps({"what": evil, "results": [{"name": evil, "score": 1.5}]}))
    report([data, tmp_path / "t.tsv", tmp_path / "s.json"], tmp_path / "r.html", title=evil)
    found = Page((tmp_path / "r.html").read_text())
    assert "script" not in found.tags
    assert evil in found.words


def test_pictures_show_the_names_asked_for(tmp_path):
    data = cells(tmp_path / "e.h5ad", batch=["x"] * 30 + ["y"] * 30)
    report([data], tmp_path / "r.html", color=["G3", "batch"])
    assert [alt for alt in Page((tmp_path / "r.html").read_text()).alts if "e.h5ad" in alt] == [
        "e.h5ad: log1p G3",
        "e.h5ad: batch",
    ]
    with pytest.raises(InputError, match="'nope'"):
        report([data], tmp_path / "s.html", color=["nope"])
    assert not (tmp_path / "s.html").exists()


def test_columns_of_zeros_are_named_and_not_drawn(tmp_path):
    columns = {"total_counts": np.arange(60.0), "pct_counts_mt": np.zeros(60), "frip": np.full(60, np.nan)}
    report([cells(tmp_path / "e.h5ad", **columns)], tmp_path / "r.html")
    found = Page((tmp_path / "r.html").read_text())
    assert [alt for alt in found.alts if "median" in alt] == ["total counts, median 29.5"]
    assert "Not drawn, as 0 in every cell: pct counts mt." in found.words
    report([cells(tmp_path / "f.h5ad", pct_counts_mt=np.eye(1, 60).ravel())], tmp_path / "s.html")
    found = Page((tmp_path / "s.html").read_text())
    assert "Not drawn" not in found.words
    assert any(alt.startswith("pct counts mt, median 0") for alt in found.alts)


def test_what_should_be_looked_at_is_named(tmp_path):
    columns = {
        keys.LABEL: ["unknown"] * 20 + ["a"] * 40,
        keys.CONFIDENCE: np.full(60, 0.8),
        keys.NOVELTY: np.full(60, 0.99),
        "total_counts": np.where(np.arange(60) < 10, 0.0, 50.0),
    }
    result = report([cells(tmp_path / "e.h5ad", **columns)], tmp_path / "r.html")
    assert len(result["notes"]) == 3
    assert "33% of the cells have no sure label" in result["notes"][1]
    calm = report([cells(tmp_path / "f.h5ad")], tmp_path / "s.html")
    assert calm["notes"] == []
    assert "Nothing stands out." in (tmp_path / "s.html").read_text()


def test_a_model_below_a_baseline_is_named(tmp_path):
    scores = {"overall": 0.5} | dict.fromkeys(
        ("pcr", "batch_asw", "kbet", "graph_connectivity", "ilisi", "clisi", "nmi", "ari", "label_asw"), 0.5
    )
    entries = [
        {"file": "a.h5ad", "embedding": "X_sailer", "cells": 3, "scores": scores},
        {"file": "a.h5ad", "embedding": "pca", "cells": 3, "scores": scores | {"overall": 0.7, "kbet": None}},
    ]
    (tmp_path / "s.json").write_text(json.dumps({"what": "integration", "results": entries}))
    notes = report([tmp_path / "s.json"], tmp_path / "r.html")["notes"]
    assert "below pca" in notes[0]
    assert "kBET could not be computed" in notes[1]


def test_marker_scores_are_shown_with_their_spread_and_pictures(trained, tmp_path):
    data, methods = trained.data, tmp_path / "methods.txt"
    methods.write_text("random\ngreedy-labels\n")
    common = {"label_key": "cell_type", "splits": 2}
    select_markers(data, tmp_path / "table.tsv", benchmark=methods, k_grid=[2, 8], workers=1, **common)
    noisy = evaluate_markers(data, tmp_path / "noisy.json", method=["random"], k=2, label_noise=[0.5], **common)
    accuracy = evaluate_markers(data, tmp_path / "accuracy.json", method=["random"], k_grid=[2, 8], **common)
    rebuilt = evaluate_reconstruction(data, tmp_path / "rebuilt.json", method=["random", "greedy-columns"], k=8)
    inputs = [tmp_path / name for name in ("table.tsv", "noisy.json", "accuracy.json", "rebuilt.json")]
    result = report(inputs, tmp_path / "r.html")
    assert result["sections"] == ["To look at", "Markers", "Scores", "What was run"]
    found = Page((tmp_path / "r.html").read_text())
    assert "could not be drawn" not in found.words
    assert [alt.partition(":")[0] for alt in found.alts] == ["table.tsv", "noisy.json", "accuracy.json", "rebuilt.json"]
    for told in (
        accuracy["results"][1]["knn"]["accuracy"],
        noisy["results"][1]["random-forest"]["macro_f1"],
        rebuilt["results"][0]["overall"]["mse"],
    ):
        assert page.number((told["mean"], told["sd"])) in found.words
    rows = pd.read_csv(tmp_path / "table.tsv", sep="\t")
    rows = rows[(rows["method"] == "random") & (rows["k"] == 8)]
    assert page.number((float(rows["mse"].mean()), float(rows["mse"].std()))) in found.words
    assert "accuracy, random forest" in found.words
    assert "wrong labels" in found.words
    # A table has no place for the command that made it; the file beside it tells.
    assert found.words.count("select-markers") == 2


def test_scores_of_another_shape_are_still_a_table(tmp_path):
    for what in ("markers", "reconstruction", "integration"):
        (tmp_path / f"{what}.json").write_text(json.dumps({"what": what, "results": [{"name": "other", "x": 7.25}]}))
    report(sorted(tmp_path.glob("*.json")), tmp_path / "r.html")
    assert Page((tmp_path / "r.html").read_text()).words.count("7.25") == 3


def test_a_mean_is_told_with_its_deviation():
    assert page.number((0.123456, 0.0123)) == "0.1235 ± 0.012"
    assert page.number((0.5, None)) == "0.5"
    assert 'class="number"' in page.table(["x"], [[(0.5, 0.1)], [None]])


def test_a_figure_that_fails_leaves_a_line(caplog):
    def broken(path):
        raise RuntimeError("no")

    assert "could not be drawn" in page.figure("A <b>", broken)
    assert "could not draw" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.tsv", "only a header\n", "holds no table"),
        ("x.tsv", "a\tb\n1\n", "line 2 has 1 columns"),
        ("x.json", "{", "no JSON"),
        ("x.h5ad", "\x89HDF\r\n\x1a\nnot really", "x.h5ad"),
    ],
)
def test_unfit_inputs_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, encoding="latin-1", newline="")
    with pytest.raises(InputError, match=words):
        report([tmp_path / name], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_folders_outputs_and_absent_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="without a finished model"):
        report([tmp_path], tmp_path / "r.html")
    with pytest.raises(InputError, match="does not exist"):
        report([tmp_path / "no.h5ad"], tmp_path / "r.html")
    with pytest.raises(UsageError, match=r"\.html"):
        report([tmp_path], tmp_path / "r.txt")
