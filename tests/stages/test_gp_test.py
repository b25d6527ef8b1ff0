"""``gp-test``: planted differences are found, groups of any name work, and inactive programs show no number."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.io.programs import load_programs
from scmap_cli.metrics.bayes import bayes_factors
from scmap_cli.stages.embed import embed
from scmap_cli.stages.gp_evidence import GENE_COLUMNS, RELATION_COLUMNS
from scmap_cli.stages.gp_table import COLUMNS
from scmap_cli.stages.gp_test import gp_test

STDOUT = Path("-")


def rows_of(result: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result["table"]), delimiter="\t"))


def labelled(trained: Any, path: Path, **columns: Any) -> Path:
    data = anndata.read_h5ad(trained.data)
    for name, values in columns.items():
        data.obs[name] = values
    write_h5ad(data, path)
    return path


def test_the_numbers_are_those_of_the_posteriors(trained: Any, tmp_path: Path) -> None:
    result = gp_test(trained.model, [trained.data], STDOUT, groupby="cell_type", group=["type1"])
    embed(trained.model, trained.data, tmp_path / "e.npz", variance=True)
    arrays = read_npz(tmp_path / "e.npz")[1]
    inside = (anndata.read_h5ad(trained.data).obs["cell_type"] == "type1").to_numpy()
    mean, var = arrays["embedding"], arrays["variance"]
    expected = bayes_factors(mean[inside], var[inside], mean[~inside], var[~inside])
    by_name = {row["program"]: row for row in rows_of(result)}
    assert set(by_name) == set(arrays["names"].tolist())
    for k, name in enumerate(arrays["names"].tolist()):
        assert float(by_name[name]["log_bf"]) == pytest.approx(expected.log_bf[k], rel=1e-4, abs=1e-5)
    found = [abs(float(row["log_bf"])) for row in rows_of(result)]
    assert found == sorted(found, reverse=True)
    assert result["contrasts"][0]["exact"]


def test_planted_programs_lead(trained: Any) -> None:
    """The program most active in a type is among its three leading ones, and goes up."""
    data = anndata.read_h5ad(trained.data)
    truth = pd.DataFrame(data.obsm["true_activity"], columns=list(data.uns["scmap_program_names"]))
    means = truth.groupby(data.obs["cell_type"].to_numpy()).mean()
    result = gp_test(trained.model, [trained.data], STDOUT, groupby="cell_type")
    hits = ups = 0
    for name, row in (means - means.mean()).iterrows():
        leading = [r for r in rows_of(result) if r["group"] == name][:3]
        match = [r for r in leading if r["program"] == row.idxmax()]
        hits += bool(match)
        ups += bool(match) and match[0]["direction"] == "up"
    assert hits >= len(means) - 1
    assert ups >= hits - 1


def test_every_group_against_the_rest_and_within_levels(trained: Any, tmp_path: Path) -> None:
    result = gp_test(trained.model, [trained.data], tmp_path / "t.tsv", groupby="cell_type", within="batch",
                     json_output=tmp_path / "t.json", plot=tmp_path / "t.png")  # fmt: skip
    levels = {(c["group"], c["within"]) for c in result["contrasts"]}
    data = anndata.read_h5ad(trained.data)
    assert levels == {(t, b) for t in data.obs["cell_type"].unique() for b in data.obs["batch"].unique()}
    told = json.loads((tmp_path / "t.json").read_text())
    assert len(told["tests"]) == len(levels) * 12
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "t.tsv").read_text().split("\n")[0] == "\t".join(COLUMNS)


@pytest.mark.parametrize("names", [("t", "s"), ("rest", "st"), (0, 1), (True, False), ("a b", "(c)")])
def test_groups_may_have_any_name(trained: Any, tmp_path: Path, names: tuple[Any, Any]) -> None:
    groups = np.where(np.arange(300) % 2 == 0, *(np.array(names, dtype=object)[i] for i in (0, 1)))
    path = labelled(trained, tmp_path / "d.h5ad", g=pd.Categorical(groups))
    result = gp_test(trained.model, [path], STDOUT, groupby="g")
    assert sorted(c["group"] for c in result["contrasts"]) == sorted(map(str, names))
    assert all(c["n"] == c["n_against"] == 150 for c in result["contrasts"])


def test_a_group_called_rest_is_a_group(trained: Any, tmp_path: Path) -> None:
    groups = np.array(["rest", "a", "b"])[np.arange(300) % 3]
    path = labelled(trained, tmp_path / "d.h5ad", g=pd.Categorical(groups))
    named = gp_test(trained.model, [path], STDOUT, groupby="g", group=["a"], against="rest")
    assert named["contrasts"][0]["n_against"] == 100
    others = gp_test(trained.model, [path], STDOUT, groupby="g", group=["a"])
    assert others["contrasts"][0]["n_against"] == 200


def test_cells_without_a_group_take_no_part(trained: Any, tmp_path: Path) -> None:
    groups = pd.Categorical(np.array(["a", "b", None], dtype=object)[np.arange(300) % 3])
    path = labelled(trained, tmp_path / "d.h5ad", g=groups)
    result = gp_test(trained.model, [path], STDOUT, groupby="g")
    assert [(c["n"], c["n_against"]) for c in result["contrasts"]] == [(100, 100)] * 2


def test_two_files_are_two_groups(trained: Any, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    for name, part in (("first", data[:100]), ("second", data[100:])):
        write_h5ad(part.copy(), tmp_path / f"{name}.h5ad")
    files = [tmp_path / "first.h5ad", tmp_path / "second.h5ad"]
    result = gp_test(trained.model, files, STDOUT, group=["first"], against="second")
    assert result["contrasts"][0]["n"] == 100
    assert result["contrasts"][0]["n_against"] == 200
    with pytest.raises(UsageError, match="nothing to compare"):
        gp_test(trained.model, files[:1], STDOUT)


def test_a_sample_is_seeded_and_tells_its_error(trained: Any) -> None:
    options: dict[str, Any] = {"groupby": "cell_type", "group": ["type1"], "exact_pairs": 0, "pairs": 3000}
    one, two, other = (gp_test(trained.model, [trained.data], STDOUT, seed=s, **options) for s in (0, 0, 1))
    assert one["table"] == two["table"] != other["table"]
    assert all(float(row["se"]) > 0 for row in rows_of(one) if row["active"] == "1")
    assert not one["contrasts"][0]["exact"]


def test_inactive_programs_show_no_number(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scmap_cli.models.expimap import ExpiMap

    weights = ExpiMap.decoder_weights

    def without_two(self: ExpiMap) -> Any:
        w = weights(self).clone()
        w[:, [2, 5]] = 0
        return w

    monkeypatch.setattr(ExpiMap, "decoder_weights", without_two)
    rows = rows_of(gp_test(trained.model, [trained.data], STDOUT, groupby="cell_type", group=["type1"]))
    dead = [row for row in rows if row["active"] == "0"]
    assert len(dead) == 2
    assert rows[-2:] == dead
    assert all(row["log_bf"] == row["p"] == row["rank"] == "" and row["direction"] == "inactive" for row in dead)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"groupby": "nope"}, InputError, "no obs column 'nope'"),
        ({"groupby": "cell_type", "group": ["typo"]}, InputError, "no cell has cell_type 'typo'"),
        ({"groupby": "cell_type", "against": "typo"}, InputError, "'typo'"),
        ({"groupby": "cell_type", "group": ["type1"], "against": "type1"}, UsageError, "with itself"),
        ({"groupby": "cell_type", "within": "cell_type"}, UsageError, "--within"),
        ({"groupby": "cell_type", "batch_key": "cell_type"}, InputError, r"does not know: 'type1', 'type2'"),
        ({"groupby": "cell_type", "pairs": 1}, UsageError, "--pairs"),
        ({"groupby": "cell_type", "threshold": -1.0}, UsageError, "--threshold"),
    ],
)
def test_what_is_refused(trained: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        gp_test(trained.model, [trained.data], STDOUT, **options)


def test_levels_with_one_side_only_are_told(trained: Any, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    level = np.where(data.obs["cell_type"] == "type1", "alone", "together")
    path = labelled(trained, tmp_path / "d.h5ad", level=level)
    with pytest.raises(InputError, match="no comparison has cells on both sides"):
        gp_test(trained.model, [path], STDOUT, groupby="cell_type", group=["type1"], within="level")
    others = gp_test(trained.model, [path], STDOUT, groupby="cell_type", within="level")
    assert {(e["group"], e["within"]) for e in others["skipped"]} >= {("type1", "alone"), ("type1", "together")}


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def test_gene_set_tests_stand_beside_and_find_the_planted_programs(trained: Any) -> None:
    options: dict[str, Any] = {"groupby": "cell_type"}
    plain = rows_of(gp_test(trained.model, [trained.data], STDOUT, **options))
    rows = rows_of(gp_test(trained.model, [trained.data], STDOUT, gene_set_test=("fry", "camera"), **options))
    assert [{name: row[name] for name in COLUMNS} for row in rows] == plain
    data = anndata.read_h5ad(trained.data)
    truth = pd.DataFrame(data.obsm["true_activity"], columns=list(data.uns["scmap_program_names"]))
    means = truth.groupby(data.obs["cell_type"].to_numpy()).mean()
    for method in ("fry", "camera"):
        hits = 0
        for name, row in (means - means.mean()).iterrows():
            mine = [r for r in rows if r["group"] == name]
            assert sorted(int(r[f"{method}_rank"]) for r in mine) == list(range(1, 13))
            order = sorted(mine, key=lambda r: -abs(float(r[f"{method}_statistic"])))
            assert [int(r[f"{method}_rank"]) for r in order] == list(range(1, 13))
            hits += row.idxmax() in [r["program"] for r in order[:3] if float(r[f"{method}_statistic"]) > 0]
        assert hits >= len(means) - 1
    with pytest.raises(UsageError, match="'gsea'"):
        gp_test(trained.model, [trained.data], STDOUT, gene_set_test=("gsea",), **options)


def test_groups_that_are_batches_are_tested_with_a_warning(trained: Any, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"group": ["batch1"], "against": "batch2", "gene_set_test": ("fry",)}
    rows = rows_of(gp_test(trained.model, [trained.data], STDOUT, groupby="batch", **options))
    assert "cannot tell the two apart" in caplog.text
    assert all(row["fry_p"] for row in rows)


def test_pairs_of_passing_programs(trained: Any, tmp_path: Path) -> None:
    out = tmp_path / "pairs.tsv"
    options: dict[str, Any] = {"groupby": "cell_type", "group": ["type1"], "overlap_output": out, "force": True}
    gp_test(trained.model, [trained.data], STDOUT, threshold=1e9, **options)
    assert out.read_text().split("\n") == ["\t".join(RELATION_COLUMNS), ""]
    tested = gp_test(trained.model, [trained.data], STDOUT, threshold=0.0, **options)
    active = [row for row in rows_of(tested) if row["active"] == "1"]
    pairs = table_of(out)
    assert len(pairs) == len(active) * (len(active) - 1) // 2
    programs, sign = load_programs(trained.programs), {}
    for row in table_of(trained.model / "programs.tsv"):
        sign[row["program"]] = int(row["direction_sum"]) or 1
    embed(trained.model, trained.data, tmp_path / "e.npz")
    arrays = read_npz(tmp_path / "e.npz")[1]
    score = {name: arrays["embedding"][:, k] * sign[name] for k, name in enumerate(arrays["names"].tolist())}
    place = {name: k for k, name in enumerate(programs.programs.tolist())}
    for row in pairs:
        one, other = (
            set(programs.genes[programs.mask[:, place[row[side]]].toarray().ravel() > 0])
            for side in ("program_a", "program_b")
        )
        assert set(filter(None, row["shared_genes"].split(","))) == one & other
        assert int(row["shared"]) == len(one & other)
        assert float(row["jaccard"]) == pytest.approx(len(one & other) / len(one | other), abs=1e-4)
        expected = np.corrcoef(score[row["program_a"]], score[row["program_b"]])[0, 1]
        assert float(row["correlation"]) == pytest.approx(expected, abs=2e-4)


def test_genes_of_passing_programs(trained: Any, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    write_h5ad(data[:, 3:].copy(), tmp_path / "fewer.h5ad")
    out = tmp_path / "genes.tsv"
    options: dict[str, Any] = {"groupby": "cell_type", "group": ["type1"], "threshold": 0.0}
    gp_test(trained.model, [tmp_path / "fewer.h5ad"], STDOUT, genes_output=out, **options)
    rows = pd.read_csv(out, sep="\t")
    assert tuple(rows.columns) == GENE_COLUMNS
    np.testing.assert_allclose(rows.groupby("program")["importance"].sum(), 1.0, atol=1e-4)
    assert (rows.groupby("program")["importance"].diff().dropna() <= 0).all()
    assert (rows["member"] == 1).all()
    lacking = rows["gene"].isin(data.var_names[:3])
    assert rows.loc[lacking, ["mean", "mean_against", "difference"]].isna().all(axis=None)
    counts = data[:, 3:].X.toarray().astype(float)
    scaled = pd.DataFrame(np.log1p(counts / counts.sum(1, keepdims=True) * 1e4), columns=data.var_names[3:])
    inside = (data.obs["cell_type"] == "type1").to_numpy()
    told = rows[~lacking]
    np.testing.assert_allclose(told["mean"], scaled[inside].mean()[told["gene"]], rtol=1e-4)
    np.testing.assert_allclose(told["mean_against"], scaled[~inside].mean()[told["gene"]], rtol=1e-4)
