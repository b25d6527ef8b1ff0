"""``preprocess atac``: whole runs against the definitions, the same bytes for any threads, and nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from fragment_files import SIZES, as_text, counted, fragments, peaks, write, write_bed, write_sizes

from scmap_cli.data.counting import RULES
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.keys import HISTORY
from scmap_cli.stages.preprocess_atac import preprocess_atac

SHARED = Path(os.environ.get("SCMAP_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture
def rows() -> pd.DataFrame:
    return fragments(2000)


@pytest.fixture
def source(tmp_path: Path, rows: pd.DataFrame) -> Path:
    return write(tmp_path / "a.tsv.gz", as_text(rows))


@pytest.fixture
def bed(tmp_path: Path) -> Path:
    return write_bed(tmp_path / "peaks.bed", peaks())


def run(source, output: Path, **options) -> anndata.AnnData:
    inputs = source if isinstance(source, list) else [source]
    preprocess_atac(inputs, output, force=True, **{"min_fragments": 0} | options)
    return read_h5ad(output)


@pytest.mark.parametrize("rule", RULES)
def test_counts_names_and_places(tmp_path: Path, source: Path, bed: Path, rows: pd.DataFrame, rule: str) -> None:
    found = run(source, tmp_path / "o.h5ad", peaks=bed, count=rule)
    cells, features = sorted(rows["barcode"].unique()), peaks()
    assert found.obs_names.tolist() == cells
    assert found.var_names.tolist() == [f"{c}:{s}-{e}" for c, s, e in features.itertuples(index=False)]
    assert found.var[["chrom", "start", "end"]].to_numpy().tolist() == features.to_numpy().tolist()
    truth = counted(rows, features, rule, cells)
    np.testing.assert_array_equal(found.X.toarray(), truth)
    assert found.X.format == "csr"
    assert found.X.dtype == np.int32
    assert found.obs["total_counts"].tolist() == truth.sum(axis=1).tolist()
    assert found.obs["n_features"].tolist() == (truth > 0).sum(axis=1).tolist()
    assert found.var["n_cells"].tolist() == (truth > 0).sum(axis=0).tolist()
    # chromosomes without peaks count among the fragments
    assert found.obs["n_fragments"].sum() == len(rows)
    record = json.loads(found.uns[HISTORY])[-1]
    assert (record["verb"], record["parameters"]["count"]) == ("preprocess atac", rule)


def test_the_same_bytes_for_any_form_order_and_number_of_threads(
    tmp_path: Path, bed: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scmap_cli.io.bgzf._TEXT_BYTES", 3000)
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in" / "f.bgz", as_text(rows))
    seen = set()
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run(path, tmp_path / "o.h5ad", peaks=bed)
        seen.add((tmp_path / "o.h5ad").read_bytes())
    assert len(seen) == 1
    first = read_h5ad(tmp_path / "o.h5ad")
    for name in ("g.tsv", "g.gz", "g.bgz"):
        other = run(
            write(tmp_path / name, as_text(rows.sample(frac=1, random_state=1), 4)), tmp_path / "p.h5ad", peaks=bed
        )
        np.testing.assert_array_equal(other.X.toarray(), first.X.toarray())
        pd.testing.assert_frame_equal(other.obs, first.obs)


def test_support_counts_on_request(tmp_path: Path, source: Path, bed: Path, rows: pd.DataFrame) -> None:
    found = run(source, tmp_path / "o.h5ad", peaks=bed, use_support=True)
    truth = counted(rows, peaks(), "fragments", found.obs_names.tolist(), support=True)
    np.testing.assert_array_equal(found.X.toarray(), truth)


def test_bins_cover_the_genome(tmp_path: Path, source: Path, rows: pd.DataFrame) -> None:
    sizes = write_sizes(tmp_path / "sizes")
    found = run(source, tmp_path / "o.h5ad", bins=1000, chrom_sizes=sizes, count="insertions", drop_chrom=["chrM"])
    assert found.n_vars == sum(-(-size // 1000) for name, size in SIZES.items() if name != "chrM")
    kept = rows[rows["chrom"] != "chrM"]
    assert found.X.sum() == 2 * len(kept)
    one = found[:, "chr2:3000-4000"].X.sum()
    inside = rows[rows["chrom"] == "chr2"]
    assert one == inside["start"].between(3000, 3999).sum() + (inside["end"] - 1).between(3000, 3999).sum()
    assert "frip" not in found.obs
    assert run(source, tmp_path / "o.h5ad", bins=1000, chrom_sizes=sizes).X.sum() > len(rows)


def test_several_samples_are_told_apart(tmp_path: Path, bed: Path) -> None:
    made = [fragments(800, seed=seed) for seed in (0, 0, 5)]
    paths = [write(tmp_path / f"s{i}.fragments.tsv.gz", as_text(one)) for i, one in enumerate(made)]
    found = run(paths, tmp_path / "o.h5ad", peaks=bed)
    assert found.obs["batch"].cat.categories.tolist() == ["s0", "s1", "s2"]
    assert found.obs_names.str.split("#").str[0].tolist() == found.obs["batch"].tolist()
    for i, one in enumerate(made):
        part = found[found.obs["batch"] == f"s{i}"]
        cells = part.obs_names.str.partition("#").get_level_values(2).tolist()
        assert cells == sorted(one["barcode"].unique())
        np.testing.assert_array_equal(part.X.toarray(), counted(one, peaks(), "fragments", cells))
    named = run(paths[:1], tmp_path / "o.h5ad", peaks=bed, sample=["first"], batch_key="donor")
    assert named.obs["donor"].unique().tolist() == ["first"]
    assert named.obs_names.tolist() == sorted(made[0]["barcode"].unique())


def test_listed_barcodes_come_in_their_order_also_empty_ones(tmp_path: Path, source: Path, bed: Path, rows) -> None:
    listed = [*sorted(rows["barcode"].unique())[:4][::-1], "NONE-1"]
    barcodes = tmp_path / "b.txt"
    barcodes.write_text("\n".join(listed) + "\n")
    found = run(source, tmp_path / "o.h5ad", peaks=bed, barcodes=[barcodes])
    assert found.obs_names.tolist() == listed
    np.testing.assert_array_equal(found.X.toarray(), counted(rows, peaks(), "fragments", listed))
    barcodes.write_text("ACGT\n")
    with pytest.raises(InputError, match="none of the 1 barcodes"):
        run(source, tmp_path / "o.h5ad", peaks=bed, barcodes=[barcodes])


def test_cells_are_kept_by_quality(tmp_path: Path, source: Path, bed: Path, rows: pd.DataFrame) -> None:
    genes = tmp_path / "genes.bed"
    genes.write_text("".join(f"chr1\t{i}\t{i + 1}\n" for i in range(2500, 58_000, 200)))
    whole = run(source, tmp_path / "o.h5ad", peaks=bed, tss=genes)
    columns = {
        "min_fragments": ("n_fragments", 1),
        "min_frip": ("frip", 1),
        "min_tss": ("tss_enrichment", 1),
        "min_promoter": ("promoter_ratio", 1),
        "max_promoter": ("promoter_ratio", -1),
        "max_nucleosome": ("nucleosome_signal", -1),
        "max_mito": ("pct_fragments_mt", -1),
        "max_fragments": ("n_fragments", -1),
    }
    for option, (column, sign) in columns.items():
        limit = float(whole.obs[column].median())
        limit = int(limit) if column == "n_fragments" else limit
        found = run(source, tmp_path / "p.h5ad", peaks=bed, tss=genes, **{option: limit})
        keep = sign * whole.obs[column] >= sign * limit
        assert 0 < keep.sum() < len(whole)
        assert found.obs_names.tolist() == whole.obs_names[keep].tolist()
        np.testing.assert_array_equal(found.X.toarray(), whole[keep.to_numpy()].X.toarray())
    with pytest.raises(InputError, match="--min-tss 1000 leaves none"):
        run(source, tmp_path / "p.h5ad", peaks=bed, tss=genes, min_tss=1000)


def test_features_are_kept_by_cells_and_blacklist(tmp_path: Path, source: Path, bed: Path) -> None:
    whole = run(source, tmp_path / "o.h5ad", peaks=bed)
    share = (whole.X.toarray() > 0).mean(axis=0)
    found = run(source, tmp_path / "p.h5ad", peaks=bed, min_cell_share=0.3, max_cell_share=0.9)
    assert found.var_names.tolist() == whole.var_names[(share >= 0.3) & (share <= 0.9)].tolist()
    assert run(source, tmp_path / "p.h5ad", peaks=bed, min_cells=4).n_vars == (share * whole.n_obs > 3.5).sum()
    black = write_bed(tmp_path / "black.bed", pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [15_000]}))
    found = run(source, tmp_path / "p.h5ad", peaks=bed, blacklist=black, keep_chrom=["chr1"])
    kept = (whole.var["chrom"] == "chr1") & (whole.var["start"] >= 15_000)
    assert found.var_names.tolist() == whole.var_names[kept].tolist()


def test_bam_gives_the_matrix_of_its_fragments(tmp_path: Path, bed: Path, rows: pd.DataFrame) -> None:
    import pysam

    header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": name, "LN": size} for name, size in SIZES.items()]}
    codes = {name: i for i, name in enumerate(SIZES)}
    with pysam.AlignmentFile(str(tmp_path / "a.bam"), "wb", header=header) as file:
        for i, row in enumerate(rows.itertuples()):
            for flag, place in ((99, row.start), (147, row.end - 10)):
                read = pysam.AlignedSegment(file.header)
                read.query_name, read.flag, read.query_sequence = f"r{i}", flag, "A" * 10
                read.reference_id = read.next_reference_id = codes[row.chrom]
                read.reference_start, read.mapping_quality, read.cigarstring = place, 60, "10M"
                read.set_tag("CB", row.barcode)
                file.write(read)
    found = run(tmp_path / "a.bam", tmp_path / "o.h5ad", peaks=bed, shift_start=0, shift_end=0)
    cells = sorted(rows["barcode"].unique())
    assert found.obs_names.tolist() == cells
    np.testing.assert_array_equal(found.X.toarray(), counted(rows, peaks(), "fragments", cells))


UNFIT = {
    "": "is empty",
    "# only a header\n": "holds no fragments",
    "chr1\t5\t5\tA\n": "line 1: start 5 is not below end 5",
    "chr1\t5\t70000\tA\n": "lies beyond chr1, which has 60000 bases",
    "chr1\t1\t9\tA\nchr1\t005\t070000\tA\n": "line 2: end 70000 lies beyond chr1, which has 60000 bases",
    "chr1\t5\t9\tA\r\n": "carriage return",
    "1\t5\t9\tA\n": "no chromosome in common with the features",
    "chr1\t5\t9\tA\n": "none of 1 barcodes has 5 fragments",
    "chr1\t5\t9\tA\x07\n" * 6: "is not plain text",
}


@pytest.mark.parametrize("text", UNFIT)
def test_unfit_input_leaves_nothing_behind(tmp_path: Path, bed: Path, text: str) -> None:
    path = tmp_path / "f.tsv"
    path.write_bytes(text.encode())
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=UNFIT[text]):
        run(path, tmp_path / "out" / "o.h5ad", peaks=bed, chrom_sizes=write_sizes(tmp_path / "sizes"), min_fragments=5)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --peaks or --bins"),
        ({"peaks": "p.bed", "bins": 500}, "either --peaks or --bins"),
        ({"bins": 500}, "--bins needs --chrom-sizes"),
        ({"bins": 5, "chrom_sizes": "s"}, "at least 100"),
        ({"peaks": "p.bed", "count": "cuts"}, "--count"),
        ({"peaks": "p.bed", "min_frip": 2.0}, "share between 0 and 1"),
        ({"peaks": "p.bed", "max_mito": 101}, "percentage"),
        ({"peaks": "p.bed", "min_tss": 2.0}, "--min-tss needs --tss"),
        ({"bins": 500, "chrom_sizes": "s", "min_frip": 0.2}, "--min-frip needs --peaks"),
        ({"peaks": "p.bed", "barcodes": ["a", "b"]}, "1 inputs but 2 files"),
        ({"peaks": "p.bed", "barcode_regex": "("}, "no regular expression"),
        ({"peaks": "p.bed", "barcode_regex": "a"}, "has no group"),
        ({"peaks": "p.bed", "barcode_from": "barcode"}, "two-letter tag"),
        ({"peaks": "p.bed", "sample": ["a", "b"]}, "1 inputs but 2 sample names"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        preprocess_atac([tmp_path / "none.tsv"], tmp_path / "o.h5ad", **options)


def test_outputs_and_dry_runs(tmp_path: Path, source: Path, bed: Path) -> None:
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "o.h5ad"
    assert preprocess_atac([source], output, peaks=bed, dry_run=True)["inputs"][0]["form"] == "fragments"
    assert not list(output.parent.iterdir())
    run(source, output, peaks=bed)
    with pytest.raises(OutputExistsError):
        preprocess_atac([source], output, peaks=bed)
    facts = json.loads((tmp_path / "out" / "o.h5ad.run.json").read_text())["machine"]
    assert facts["fragments"] == len(fragments(2000))


def test_repeated_peaks_are_taken_once(tmp_path: Path, source: Path, bed: Path) -> None:
    before = run(source, tmp_path / "o.h5ad", peaks=bed)
    bed.write_text(bed.read_text() * 2)
    np.testing.assert_array_equal(run(source, tmp_path / "p.h5ad", peaks=bed).X.toarray(), before.X.toarray())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("name", ["test.fragments.tsv.gz", "chr22_fragments.sorted.tsv.gz"])
def test_the_maestro_case_is_exact_once_binarised(tmp_path: Path, name: str) -> None:
    folder = SHARED / "atac" / "fragments"
    options = {"peaks": folder / "chr22_peaks.bed", "barcodes": [folder / "chr22_barcodes.txt.gz"]}
    found = run(folder / name, tmp_path / "o.h5ad", **options)
    expected = anndata.read_h5ad(folder / "chr22_expected.h5ad")
    assert found.obs_names.tolist() == expected.obs_names.tolist()
    assert found.X.nnz == 29_773
    assert ((found.X > 0) != (expected.X > 0)).nnz == 0


def test_no_counts_at_all_is_an_input_error(tmp_path: Path, source: Path) -> None:
    (tmp_path / "far.bed").write_text("chr1\t1\t2\nchrY\t100\t200\n")
    with pytest.raises(InputError, match="counts in one of the 2 features"):
        preprocess_atac([source], tmp_path / "o.h5ad", peaks=tmp_path / "far.bed")
    assert not (tmp_path / "o.h5ad").exists()


def test_options_of_reads_are_told_to_say_nothing_of_fragments(tmp_path: Path, source: Path, bed: Path, caplog) -> None:
    run(source, tmp_path / "o.h5ad", peaks=bed)
    assert "no input is a BAM file" not in caplog.text
    run(source, tmp_path / "o.h5ad", peaks=bed, min_mapq=10)
    assert "no input is a BAM file" in caplog.text
