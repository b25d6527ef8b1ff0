"""Sets of peaks: unions against a base-by-base reference, fixed widths by their properties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fragment_files import peaks

from scmap_cli.data.peak_sets import bins, chosen_chroms, filtered, fixed_width, overlaps, reduced
from scmap_cli.errors import InputError


def covered(table: pd.DataFrame, chrom: str, size: int = 50_000) -> np.ndarray:
    bases = np.zeros(size, bool)
    for row in table[table["chrom"] == chrom].itertuples():
        bases[row.start : row.end] = True
    return bases


def test_the_union_covers_the_same_bases_by_disjoint_peaks_that_do_not_touch() -> None:
    sets = [peaks(40, seed) for seed in range(3)]
    union = reduced(sets)
    for chrom in ("chr1", "chr2"):
        np.testing.assert_array_equal(covered(union, chrom), covered(pd.concat(sets), chrom))
        own = union[union["chrom"] == chrom]
        assert (own["start"].to_numpy()[1:] > own["end"].to_numpy()[:-1]).all()
    assert union["chrom"].tolist() == sorted(union["chrom"])
    assert union["chrom"].map(type).eq(str).all()
    pd.testing.assert_frame_equal(reduced(sets[::-1]), union)
    pd.testing.assert_frame_equal(reduced([union]), union)


def test_peaks_that_touch_become_one() -> None:
    table = pd.DataFrame({"chrom": "chr1", "start": [0, 10, 21], "end": [10, 20, 30]})
    assert reduced([table])[["start", "end"]].to_numpy().tolist() == [[0, 20], [21, 30]]


def with_scores(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return table.assign(summit=(table["start"] + table["end"]) // 2, score=rng.gamma(1, 50, len(table)))


def test_fixed_width_keeps_the_best_of_those_that_overlap() -> None:
    sets = [with_scores(peaks(50, seed), seed) for seed in range(2)]
    sizes = {"chr1": 36_000, "chr2": 36_000}
    found = fixed_width(sets, 301, sizes)
    assert (found["end"] - found["start"] == 301).all()
    candidates = pd.concat(
        [
            pd.DataFrame({"chrom": t["chrom"], "start": t["summit"] - 150, "rank": t["score"].rank(pct=True)})
            for t in sets
        ]
    )
    rank = {(r.chrom, r.start): r.rank for r in candidates.sort_values("rank").itertuples()}
    kept = [(r.chrom, r.start) for r in found.itertuples()]
    assert set(kept) <= set(rank)
    for chrom in ("chr1", "chr2"):
        starts = np.array([s for c, s in kept if c == chrom])
        assert (np.diff(starts) >= 301).all()
    for (chrom, start), value in rank.items():
        if (chrom, start) in kept or start < 0 or start + 301 > sizes[chrom]:
            continue
        rivals = [rank[(c, s)] for c, s in kept if c == chrom and abs(s - start) < 301]
        assert rivals
        assert max(rivals) >= value


def test_scores_of_any_scale_compete_as_ranks_and_none_is_the_middle() -> None:
    one = pd.DataFrame({"chrom": "chr1", "start": [1000, 9000], "end": [1100, 9100], "summit": [1050, 9050]})
    strong, weak = one.assign(score=[1e6, 1e5]), one.assign(summit=[1060, 9060], score=[1e-3, 1.0])
    assert fixed_width([strong, weak], 100)["start"].tolist() == [1000, 9010]
    assert fixed_width([one.assign(score=np.nan), weak], 100)["start"].tolist() == [1000, 9010]


def test_fixed_width_leaves_out_what_lies_beyond_the_chromosome() -> None:
    table = pd.DataFrame(
        {"chrom": ["chr1", "chr1", "chrX"], "start": 0, "end": 9, "summit": [20, 995, 500], "score": 1.0}
    )
    assert fixed_width([table], 51, {"chr1": 1000}).empty
    assert len(fixed_width([table], 51)) == 2


def test_bins_cover_each_chromosome_once() -> None:
    table = bins({"chr2": 25, "chr10": 20}, 10)
    assert table.to_numpy().tolist() == [
        ["chr2", 0, 10],
        ["chr2", 10, 20],
        ["chr2", 20, 25],
        ["chr10", 0, 10],
        ["chr10", 10, 20],
    ]


def test_overlaps_need_one_base() -> None:
    table, others = peaks(60, 5), peaks(20, 6)
    truth = [
        any(o.chrom == r.chrom and r.start < o.end and r.end > o.start for o in others.itertuples())
        for r in table.itertuples()
    ]
    assert overlaps(table, others).tolist() == truth
    edge = pd.DataFrame({"chrom": ["chr1", "chr1"], "start": [0, 11], "end": [10, 12]})
    assert overlaps(edge, pd.DataFrame({"chrom": ["chr1"], "start": [10], "end": [11]})).tolist() == [False, False]
    assert overlaps(edge, edge.iloc[:0]).tolist() == [False, False]


def test_filters_count_what_they_take() -> None:
    places = [("chr1", 0, 50), ("chr1", 90, 120), ("chr1", 10, 11), ("chrX", 5, 55), ("chr1_alt", 5, 55)]
    table = pd.DataFrame([*places, ("chr1", 60, 80)], columns=["chrom", "start", "end"])
    kept, taken = filtered(
        table,
        keep_chrom=["chr?"],
        drop_chrom=["chrX"],
        blacklist=pd.DataFrame({"chrom": ["chr1"], "start": [49], "end": [60]}),
        min_size=10,
        sizes={"chr1": 119},
    )
    assert taken == {"chromosomes": 2, "size": 1, "chrom-sizes": 1, "blacklist": 1}
    assert kept.to_numpy().tolist() == [["chr1", 60, 80]]
    with pytest.raises(InputError, match="none of 6 regions"):
        filtered(table, keep_chrom=["1"])


def test_chromosomes_are_chosen_by_pattern() -> None:
    names = pd.Series(["chr1", "chr22", "chrUn_1", "chrM"])
    assert chosen_chroms(names, None, ["*_*", "chrM"]).tolist() == [True, True, False, False]
    assert chosen_chroms(names, ["chr[0-9]*"], None).tolist() == [True, True, False, False]
