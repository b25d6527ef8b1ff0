"""Counts equal the definition of each rule, whatever the peaks, the order of the rows and the number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fragment_files import as_text, counted, fragments, peaks, write

from scmap_cli.data import counting
from scmap_cli.data.counting import RULES, TALLIES, Counter, Tables, count_block
from scmap_cli.data.qc_atac import cell_quality, tss_regions
from scmap_cli.data.regions import below, index_regions
from scmap_cli.io.fragments import map_blocks

NO_SITES = pd.DataFrame({"chrom": [], "position": np.empty(0, np.int64)})


def tables(features: pd.DataFrame, sites: pd.DataFrame = NO_SITES) -> Tables:
    chroms = list(dict.fromkeys([*features["chrom"], *sites["chrom"]]))
    promoters, around = tss_regions(sites, chroms)
    codes = {name: i for i, name in enumerate(chroms)}
    return Tables(codes, index_regions(features, chroms), promoters, around, len(features), frozenset({"chrM"}))


def count(path: Path, table: Tables, rule: str, cells: list[str] | None, support: bool = False, threads: int = 1):
    counter = Counter(table.n_features, cells)
    for one in map_blocks(
        path, lambda block: count_block(block, table, rule, support), with_support=support, threads=threads
    ):
        counter.add(one)
    return counter, *counter.finish()


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_counts_are_those_of_the_definition(tmp_path: Path, rule: str, ordered: bool, overlapping: bool) -> None:
    rows, features = fragments(1500), peaks(overlapping=overlapping)
    if ordered:
        rows = rows.sort_values(["chrom", "start"], ignore_index=True)
    cells = sorted(rows["barcode"].unique())
    path = write(tmp_path / "f.tsv", as_text(rows))
    for support in (False, True):
        counter, matrix, _ = count(path, tables(features), rule, cells, support)
        assert matrix.dtype == np.int32
        assert matrix.has_sorted_indices
        np.testing.assert_array_equal(matrix.toarray(), counted(rows, features, rule, cells, support))
        assert counter.others == 0


def test_the_three_rules_differ_as_they_should(tmp_path: Path) -> None:
    """One fragment each: inside, over one edge, over the whole peak, and touching it."""
    text = "".join(f"chr1\t{s}\t{e}\tA\n" for s, e in [(110, 190), (50, 150), (50, 250), (50, 100), (200, 300)])
    features = pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [200]})
    path = write(tmp_path / "f.tsv", text)
    found = {rule: int(count(path, tables(features), rule, None)[1].sum()) for rule in RULES}
    assert found == {"fragments": 3, "insertions": 3, "paired": 2}


def test_a_crowd_of_overlapping_peaks_needs_more_entries_than_rows(tmp_path: Path) -> None:
    features = pd.DataFrame({"chrom": "chr1", "start": np.arange(300), "end": np.arange(300) + 400})
    path = write(tmp_path / "f.tsv", "chr1\t350\t360\tA\n" * 3)
    matrix = count(path, tables(features), "fragments", None)[1]
    assert matrix.toarray().tolist() == [[3 if i + 400 > 350 else 0 for i in range(300)]]


def test_merging_in_parts_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, features = fragments(4000, cells=40), peaks()
    path = write(tmp_path / "f.tsv", as_text(rows))
    monkeypatch.setattr("scmap_cli.io.bgzf._TEXT_BYTES", 900)
    whole = count(path, tables(features), "fragments", None)
    monkeypatch.setattr(counting, "_WAITING", 50)
    for threads in (1, 2):
        parts = count(path, tables(features), "fragments", None, threads=threads)
        assert parts[0].names.names() == whole[0].names.names()
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(parts[1], name), getattr(whole[1], name))
        np.testing.assert_array_equal(parts[2], whole[2])


def test_only_listed_barcodes_are_counted_and_the_others_are_known(tmp_path: Path) -> None:
    rows, features = fragments(), peaks()
    cells = [*sorted(rows["barcode"].unique())[3:6], "absent"]
    path = write(tmp_path / "f.tsv", as_text(rows))
    counter, matrix, sums = count(path, tables(features), "fragments", cells)
    np.testing.assert_array_equal(matrix.toarray(), counted(rows, features, "fragments", cells))
    inside = rows["barcode"].isin(cells)
    assert sums[:, 0].tolist() == [int((rows["barcode"] == cell).sum()) for cell in cells]
    assert counter.others == int((~inside).sum())


def test_search_finds_the_same_place_from_any_hint() -> None:
    rng = np.random.default_rng(0)
    start = np.sort(rng.integers(0, 200, 80)).astype(np.int32)
    for _ in range(400):
        first, last = np.sort(rng.integers(0, 81, 2))
        value, hint = int(rng.integers(-5, 210)), int(rng.integers(-5, 90))
        assert below(start, first, last, value, hint) == first + np.searchsorted(start[first:last], value)


def test_quality_is_that_of_the_definitions(tmp_path: Path) -> None:
    rows, features = fragments(6000, cells=4), peaks()
    rng = np.random.default_rng(3)
    sites = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2"], 25), "position": rng.integers(0, 40_000, 25)})
    sites = sites.drop_duplicates(ignore_index=True)
    path = write(tmp_path / "f.tsv", as_text(rows))
    cells = sorted(rows["barcode"].unique())
    _, _, sums = count(path, tables(features, sites), "fragments", cells)
    found = cell_quality(sums, peaks=True, tss=True)
    for cell, row in zip(cells, found.itertuples(), strict=True):
        own = rows[rows["barcode"] == cell]
        length = own["end"] - own["start"]
        peak = sum(
            any(f.chrom == r.chrom and r.start < f.end and r.end > f.start for f in features.itertuples())
            for r in own.itertuples()
        )
        promoter = sum(
            any(t.chrom == r.chrom and r.start - 1000 <= t.position < r.end + 1000 for t in sites.itertuples())
            for r in own.itertuples()
        )
        profile = np.zeros(4001)
        for site in sites.itertuples():
            near = own[own["chrom"] == site.chrom]
            for cut in (*near["start"], *(near["end"] - 1)):
                if abs(cut - site.position) <= 2000:
                    profile[cut - site.position + 2000] += 1
        centre = profile[1995:2006].mean()
        flank = np.concatenate([profile[:100], profile[-100:]]).mean()
        assert row.n_fragments == len(own)
        assert row.frip == pytest.approx(peak / len(own))
        assert row.promoter_ratio == pytest.approx(promoter / len(own))
        assert row.tss_enrichment == pytest.approx(centre / (flank + 0.1))
        mono = int(length.between(147, 294).sum())
        assert row.nucleosome_signal == pytest.approx(mono / int((length < 147).sum()))
        assert row.pct_fragments_mt == pytest.approx(100 * float((own["chrom"] == "chrM").mean()))


def test_cells_without_fragments_have_zeros() -> None:
    found = cell_quality(np.zeros((2, len(TALLIES)), np.int64), peaks=True, tss=True)
    assert (found == 0).all(axis=None)
