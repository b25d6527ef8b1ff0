"""``simulate atac``: the files agree with each other, whole or absent, same bytes."""

from __future__ import annotations

import gzip
import json

import anndata
import numpy as np
import pytest

from scmap_cli import keys
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.stages.simulate_atac import simulate_atac

TABLE = "peak\tA\tB\tC\n" + "".join(
    f"chr{1 + i // 40}:{4000 * (i % 40) + 100}-{4000 * (i % 40) + 400}\t{i % 3}\t{100 * (i % 5)}\t{i % 2}\n"
    for i in range(80)
)
FEW = {"n_cells": 40, "min_depth": 10, "mu": (80.0,), "rho": (0.4,), "n_batches": 1}


def read_fragments(path):
    with gzip.open(path, "rt") as handle:
        return [line.rstrip("\n").split("\t") for line in handle]


def count_overlaps(rows, adata):
    """(n, P) number of fragments that share a base pair with each peak."""
    cell = {name: n for n, name in enumerate(adata.obs_names)}
    matrix = np.zeros(adata.shape)
    table = list(zip(adata.var["chrom"], adata.var["start"], adata.var["end"], strict=True))
    for chrom, start, end, name, _ in rows:
        for p, (where, low, high) in enumerate(table):
            matrix[cell[name], p] += where == chrom and int(start) < high and int(end) > low
    return matrix


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "bulk.tsv.gz"
    with gzip.open(path, "wt") as handle:
        handle.write(TABLE)
    return path


def test_counting_the_fragments_gives_the_matrix(tmp_path, table):
    out, fragments = tmp_path / "d.h5ad", tmp_path / "f.tsv.gz"
    summary = simulate_atac(out, preset="tiny", bulk=table, types=["C", "A"], fragments=fragments, seed=2, **FEW)
    adata = anndata.read_h5ad(out)
    rows = read_fragments(fragments)
    np.testing.assert_array_equal(count_overlaps(rows, adata), adata.X.toarray())
    assert len(rows) == summary["fragments"] == adata.obs["depth"].sum()
    assert len({tuple(row) for row in rows}) == len(rows)
    by_cell = dict.fromkeys(adata.obs_names, 0)
    for row in rows:
        by_cell[row[3]] += 1
    assert list(by_cell.values()) == adata.obs["depth"].tolist()
    assert list(adata.obs["cell_type"].cat.categories) == summary["types"] == ["C", "A"]
    assert {row[4] for row in rows} == {"1"}
    parameters = json.loads(adata.uns[keys.HISTORY])[0]["parameters"]
    assert (parameters["types"], parameters["n_types"], parameters["n_peaks"]) == (["C", "A"], 2, None)


def test_fragments_are_sorted_and_background_keeps_away_from_peaks(tmp_path, table):
    import pysam

    simulate_atac(tmp_path / "d.h5ad", preset="tiny", bulk=table, fragments=tmp_path / "f.tsv.gz", **FEW)
    adata = anndata.read_h5ad(tmp_path / "d.h5ad")
    rows = read_fragments(tmp_path / "f.tsv.gz")
    places = [(row[0], int(row[1]), int(row[2])) for row in rows]
    assert places == sorted(places)
    assert all(start < end for _, start, end in places)
    pysam.tabix_index(str(tmp_path / "f.tsv.gz"), preset="bed", force=True)
    assert len(list(pysam.TabixFile(str(tmp_path / "f.tsv.gz")).fetch("chr2"))) == sum(p[0] == "chr2" for p in places)
    peaks = list(zip(adata.var["chrom"], adata.var["start"], adata.var["end"], strict=True))
    for chrom, start, end in places:
        gap = min(max(low - end, start - high) for where, low, high in peaks if where == chrom)
        assert gap < 0 or gap >= 1000


def test_same_options_give_the_same_bytes_with_any_number_of_threads(tmp_path, monkeypatch):
    for name, threads in (("a", 1), ("b", 2)):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        simulate_atac(tmp_path / f"{name}.h5ad", preset="tiny", fragments=tmp_path / f"{name}.tsv.gz", seed=1)
    for suffix in ("h5ad", "tsv.gz"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_fragments_do_not_change_the_matrix(tmp_path):
    simulate_atac(tmp_path / "a.h5ad", preset="tiny")
    simulate_atac(tmp_path / "b.h5ad", preset="tiny", fragments=tmp_path / "b.tsv.gz")
    one, two = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    assert (one.X != two.X).nnz == 0


def test_options_replace_the_presets_values_and_are_recorded(tmp_path):
    summary = simulate_atac(tmp_path / "a.h5ad", preset="tiny", n_cells=50, n_types=2, n_peaks=300, seed=3)
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert adata.shape == (50, 300) == (summary["cells"], summary["peaks"])
    record = json.loads(adata.uns[keys.HISTORY])[0]
    assert (record["verb"], record["seed"], record["parameters"]["n_types"]) == ("simulate atac", 3, 2)
    assert record["parameters"]["mu"] == [600.0, 900.0]
    assert simulate_atac(tmp_path / "b.h5ad", preset="sim3", dry_run=True)["parameters"]["n_cells"] == 20_000
    assert not (tmp_path / "b.h5ad").exists()


def test_a_sample_of_the_tables_peaks(tmp_path, table):
    def made(name, **options):
        simulate_atac(tmp_path / name, preset="tiny", bulk=table, **FEW, **options)
        return anndata.read_h5ad(tmp_path / name)

    whole, some = made("a.h5ad", seed=4), made("b.h5ad", n_peaks=30, seed=4)
    assert some.n_vars == 30
    # Peaks keep the table's order and openness; the signal of those left makes up a type's profile.
    assert list(some.var_names) == [name for name in whole.var_names if name in set(some.var_names)]
    kept = whole.varm[keys.BULK].loc[some.var_names]
    np.testing.assert_allclose(some.varm[keys.BULK], kept / kept.sum(), rtol=1e-5)
    np.testing.assert_array_equal(some.varm[keys.BULK_OPEN], whole.varm[keys.BULK_OPEN].loc[some.var_names])
    assert list(made("c.h5ad", n_peaks=30, seed=5).var_names) != list(some.var_names)
    made("d.h5ad", n_peaks=30, seed=4)
    assert (tmp_path / "b.h5ad").read_bytes() == (tmp_path / "d.h5ad").read_bytes()
    assert json.loads(some.uns[keys.HISTORY])[0]["parameters"]["n_peaks"] == 30


def test_a_cell_deeper_than_its_peaks_is_told(tmp_path, table, caplog):
    simulate_atac(tmp_path / "a.h5ad", preset="tiny", bulk=table, **FEW | {"mu": (5000.0,), "n_cells": 6})
    assert "6 cells have all peaks" in caplog.text
    assert anndata.read_h5ad(tmp_path / "a.h5ad").X.sum() == 6 * 2 * 80


def test_bad_options_write_nothing(tmp_path, table):
    (tmp_path / "mine.tsv.gz").write_text("mine")
    overlapping = tmp_path / "overlapping.tsv"
    overlapping.write_text("peak\tA\nchr1:0-100\t1\nchr1:50-150\t2\n")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "a.h5ad"
    for options in (
        {"preset": "huge"},
        {"types": ["A"]},
        {"bulk": table, "types": ["A", "A"]},
        {"bulk": table, "types": ["A", "B"], "n_types": 3},
        {"n_peaks": 0},
        {"open_share": 1.0},
        {"open_above": -1.0},
        {"fragments": out},
        {"rho": (2.0,)},
        {"rare_types": 0, "rare_cells": 5},
        {"rare_types": 0, "rare_in": "one"},
    ):
        for dry_run in (False, True):
            with pytest.raises(UsageError):
                simulate_atac(out, **{"preset": "tiny", "dry_run": dry_run} | options)
    with pytest.raises(OutputExistsError):
        simulate_atac(out, preset="tiny", fragments=tmp_path / "mine.tsv.gz")
    for options, match in (
        ({"bulk": table, "types": ["D"]}, "no column 'D'"),
        ({"bulk": table, "n_types": 4}, "3 columns for 4 types"),
        ({"bulk": table, "n_peaks": 81}, "80 peaks, not 81"),
        ({"bulk": overlapping, "n_types": 1, "fragments": tmp_path / "f.tsv.gz"}, "1 peaks overlap"),
        ({"bulk": tmp_path / "none.tsv"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=match):
            simulate_atac(out, **{"preset": "tiny"} | options)
    assert sorted(tmp_path.iterdir()) == before
