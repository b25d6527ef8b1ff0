"""Lengths of fragments and cuts around start sites, against a plain count."""

from __future__ import annotations

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest

from scmap_cli import keys
from scmap_cli.data.profiles import LONGEST, REACH, Profiler
from scmap_cli.stages.preprocess_atac import preprocess_atac
from scmap_cli.stages.report import report


@pytest.fixture
def fragments(tmp_path):
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(0, 20_000, 3000))
    rows = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + rng.integers(20, 1500, 3000)})
    rows["cell"] = [f"cell{i % 3}" for i in range(3000)]
    with gzip.open(tmp_path / "f.tsv.gz", "wt") as handle:
        rows.to_csv(handle, sep="\t", header=False, index=False)
    (tmp_path / "peaks.bed").write_text("chr1\t0\t9000\nchr1\t9500\t20000\n")
    (tmp_path / "genes.bed").write_text("chr1\t8000\t9000\tA\t0\t+\nchr1\t5000\t8501\tB\t0\t-\nchr2\t5\t10\tC\t0\t+\n")
    return tmp_path, rows


def test_profiles_are_kept_drawn_and_reported(fragments):
    folder, rows = fragments
    options = {"peaks": folder / "peaks.bed", "tss": folder / "genes.bed", "min_fragments": 1}
    preprocess_atac([folder / "f.tsv.gz"], folder / "a.h5ad", profiles=True, plot=folder / "a.png", **options)
    adata = anndata.read_h5ad(folder / "a.h5ad")
    (lengths,) = adata.uns[keys.FRAGMENT_LENGTHS].values()
    expected = np.bincount(np.minimum(rows["end"] - rows["start"], LONGEST), minlength=LONGEST + 1)
    np.testing.assert_array_equal(lengths, expected)
    (cuts,) = adata.uns[keys.TSS_PROFILE].values()
    counted = np.zeros(2 * REACH + 1, dtype=int)
    for place in [*rows["start"], *(rows["end"] - 1)]:
        for site in (8000, 8500):
            if abs(place - site) <= REACH:
                counted[place - site + REACH] += 1
    np.testing.assert_array_equal(cuts, counted)
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG")
    report([folder / "a.h5ad"], folder / "r.html")
    text = (folder / "r.html").read_text()
    assert "lengths of the fragments" in text
    assert "cuts around start sites" in text
    preprocess_atac([folder / "f.tsv.gz"], folder / "b.h5ad", **options)
    assert keys.FRAGMENT_LENGTHS not in anndata.read_h5ad(folder / "b.h5ad").uns


def test_start_sites_at_one_place_count_once():
    sites = Profiler.around(pd.DataFrame({"chrom": ["chr1"] * 3, "position": [7, 5, 7]})).sites
    assert sites is not None
    np.testing.assert_array_equal(sites["chr1"], [5, 7])
    assert Profiler.around(None).sites is None
