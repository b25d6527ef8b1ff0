"""``preprocess peaks``: unions that data sets are counted on alike, and peaks called by MACS3."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fragment_files import SIZES, as_text, counted, fragments, peaks, write, write_bed, write_sizes

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bed import read_bed
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.stages.preprocess_atac import preprocess_atac
from scmap_cli.stages.preprocess_peaks import preprocess_peaks


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    return [write_bed(tmp_path / f"{seed}.bed", peaks(40, seed)) for seed in range(2)]


def test_two_data_sets_are_counted_on_the_merged_set(tmp_path: Path, sets: list[Path]) -> None:
    merged = tmp_path / "merged.bed"
    summary = preprocess_peaks(sets, merged)
    features = read_bed(merged)
    assert summary["peaks"] == len(features)
    found = []
    for seed in range(2):
        rows = fragments(1000, seed=seed)
        path = write(tmp_path / f"{seed}.tsv.gz", as_text(rows))
        preprocess_atac([path], tmp_path / f"{seed}.h5ad", peaks=merged, min_fragments=1)
        one = read_h5ad(tmp_path / f"{seed}.h5ad")
        np.testing.assert_array_equal(one.X.toarray(), counted(rows, features, "fragments", one.obs_names.tolist()))
        found.append(one)
    assert found[0].var_names.tolist() == found[1].var_names.tolist()
    columns = ["chrom", "start", "end"]
    pd.testing.assert_frame_equal(found[0].var[columns], found[1].var[columns])


def test_one_width_filters_and_the_record(tmp_path: Path, sets: list[Path]) -> None:
    black = write_bed(tmp_path / "black.bed", pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [9000]}))
    output = tmp_path / "o.bed"
    summary = preprocess_peaks(
        sets, output, width=201, blacklist=black, keep_chrom=["chr1"], chrom_sizes=write_sizes(tmp_path / "sizes")
    )
    found = read_bed(output)
    assert set(found["chrom"]) == {"chr1"}
    assert (found["end"] - found["start"] == 201).all()
    assert (found["start"] >= 9000).all()
    assert (found["end"] <= SIZES["chr1"]).all()
    facts = json.loads((tmp_path / "o.bed.run.json").read_text())
    assert facts["record"]["parameters"]["width"] == 201
    assert facts["machine"]["summary"]["peaks"] == summary["peaks"] == len(found)
    before = output.read_bytes()
    preprocess_peaks(sets[::-1], output, width=201, blacklist=black, keep_chrom=["chr1"], force=True)
    assert output.read_bytes() == before


def test_unfit_sets(tmp_path: Path, sets: list[Path]) -> None:
    with pytest.raises(InputError, match="none of 40 regions"):
        preprocess_peaks(sets, tmp_path / "o.bed", keep_chrom=["1"])
    with pytest.raises(InputError, match=r"none of .* regions"):
        preprocess_peaks(sets, tmp_path / "o.bed", min_size=10**6)
    with pytest.raises(InputError, match="does not exist"):
        preprocess_peaks([tmp_path / "none.bed"], tmp_path / "o.bed")
    assert not (tmp_path / "o.bed").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "--width"),
        ({"min_size": 9, "max_size": 8}, "--max-size 8"),
        ({"q_value": 1.0}, "--q-value"),
        ({"genome_size": "human"}, "--genome-size"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, sets: list[Path], options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        preprocess_peaks(sets, tmp_path / "o.bed", **options)


def clustered(path: Path) -> Path:
    """Fragments around three places, over a thin background."""
    rng = np.random.default_rng(0)
    centre = np.concatenate([rng.choice([5000, 20_000, 40_000], 1500) + rng.normal(0, 60, 1500).astype(int),
                             rng.integers(1000, 58_000, 300)])  # fmt: skip
    rows = pd.DataFrame({"chrom": "chr1", "start": centre - 40, "end": centre + 40, "barcode": "A", "support": 1})
    return write(path, as_text(rows))


def test_calling_without_macs3_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UsageError, match="not installed") as error:
        preprocess_peaks([clustered(tmp_path / "f.tsv")], tmp_path / "o.bed", call=True)
    assert error.value.hint == "pip install 'scmap-cli[peaks]'"


FAKE = """#!/bin/sh
if [ "$1" = --version ]; then echo "macs3 9.9"; exit 0; fi
while [ $# -gt 0 ]; do
  case $1 in -t) cuts=$2;; --outdir) out=$2;; -g) genome=$2;; esac; shift
done
[ "$genome" = 7 ] && { echo "no such genome" >&2; exit 1; }
awk -v OFS='\\t' '{print $1, $2, $3, ".", 0, $6, 1, 1, 1, 0}' "$cuts" > "$out/called_peaks.narrowPeak"
"""


def test_the_caller_gets_both_cuts_of_each_fragment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for MACS3 that calls every cut a peak."""
    program = tmp_path / "macs3"
    program.write_text(FAKE)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(program))
    path = write(tmp_path / "f.tsv", "chr1\t10\t20\tA\nchr2\t5\t50\tB\n")
    preprocess_peaks([path], tmp_path / "o.bed", call=True)
    assert (tmp_path / "o.bed").read_text() == "chr1\t10\t11\nchr1\t19\t20\nchr2\t5\t6\nchr2\t49\t50\n"
    record = json.loads((tmp_path / "o.bed.run.json").read_text())["record"]
    assert record["parameters"]["call"] == {"macs3": "9.9", "genome_size": "hs", "q_value": 0.05}
    with pytest.raises(InputError, match="no such genome"):
        preprocess_peaks([path], tmp_path / "p.bed", call=True, genome_size="7")


@pytest.mark.skipif(shutil.which("macs3") is None, reason="needs MACS3")
def test_macs3_finds_where_the_cuts_are(tmp_path: Path) -> None:
    summary = preprocess_peaks([clustered(tmp_path / "f.tsv")], tmp_path / "o.bed", call=True, genome_size="60000")
    found = read_bed(tmp_path / "o.bed")
    for place in (5000, 20_000, 40_000):
        assert ((found["start"] < place) & (found["end"] > place)).any()
    assert summary["bases"] < 6000
