"""Planted motifs are found in the peaks and tell the types of cells apart; misfits of the three files are refused."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.data.motifs import frequencies_of, match_motifs
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.jaspar import read_jaspar
from scmap_cli.io.npz import read_npz
from scmap_cli.runtime.provenance import read_history
from scmap_cli.stages.preprocess_motifs import preprocess_motifs

WORDS = {"M1_ALPHA": "TGACGTCATG", "M2_BETA": "CCATATTTGG", "M3_GAMMA": "GATTACAGCC"}
SHARED = Path(os.environ.get("SCMAP_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
PEAKS, CELLS, WIDTH = 900, 150, 200


@dataclass(frozen=True)
class Files:
    atac: Path
    genome: Path
    motifs: Path
    planted: dict[str, np.ndarray]


def make(folder: Path) -> Files:
    """Alpha and beta lie in peaks that are open in a type of cells each, gamma in any; a third type opens neither."""
    rng = np.random.default_rng(0)
    bases = rng.choice(list("ACGT"), PEAKS * 400, p=[0.3, 0.2, 0.2, 0.3])
    reverse = str.maketrans("ACGT", "TGCA")
    order = rng.permutation(PEAKS)
    planted, mean = {}, rng.lognormal(-0.5, 0.6, (1, PEAKS)) * np.ones((3, 1))
    for number, (name, word) in enumerate(WORDS.items()):
        peaks = np.sort(order[120 * number :][:120])
        planted[name] = peaks
        for turn, peak in enumerate(peaks):
            start = 400 * peak + 30 + 40 * number
            bases[start : start + len(word)] = list(word if turn % 2 else word.translate(reverse)[::-1])
        if number < 2:
            mean[number, peaks] *= 3
    half = len(bases) // 2
    texts = {"chr1": "".join(bases[:half]), "chr2": "".join(bases[half:]).lower()}
    (folder / "genome.fa").write_text("".join(f">{name}\n{text}\n" for name, text in texts.items()))
    rows = []
    for name, word in WORDS.items():
        counts = [" ".join("28" if base == letter else "1" for letter in word) for base in "ACGT"]
        rows.append(f">{name.replace('_', ' ')}\n" + "\n".join(counts) + "\n")
    (folder / "motifs.txt").write_text("".join(rows))
    kind = np.arange(CELLS) % 3
    x = rng.poisson(mean[kind] * rng.lognormal(0, 0.4, CELLS)[:, None])
    x[:, -1] = 0
    starts = 400 * np.arange(PEAKS)
    chrom = np.where(starts < half, 1, 2)
    names = [f"chr{c}:{s % half}-{s % half + WIDTH}" for c, s in zip(chrom, starts, strict=True)]
    obs = pd.DataFrame({"type": pd.Categorical(np.array(["a", "b", "c"])[kind])}, index=[f"c{i}" for i in range(CELLS)])
    adata = anndata.AnnData(sparse.csr_matrix(x.astype(np.int32)), obs=obs, var=pd.DataFrame(index=names))
    adata.obsm["X_any"] = np.ones((CELLS, 2))
    write_h5ad(adata, folder / "atac.h5ad", force=True)
    return Files(folder / "atac.h5ad", folder / "genome.fa", folder / "motifs.txt", planted)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("motifs"))


def run(files: Files, output: Path, **options: object) -> dict:
    given = {"genome": files.genome, "motifs": files.motifs} | options
    return preprocess_motifs(given.pop("input", files.atac), output, **given)  # type: ignore[arg-type]


def test_planted_motifs_are_found_and_tell_types_apart(files: Files, tmp_path: Path) -> None:
    summary = run(files, tmp_path / "m.h5ad", matches_output=tmp_path / "m.npz")
    found, atac = anndata.read_h5ad(tmp_path / "m.h5ad"), anndata.read_h5ad(files.atac)
    assert summary["peaks_without_counts"] == 1
    assert (summary["cells"], summary["peaks"], summary["motifs"]) == (CELLS, PEAKS - 1, 3)
    assert found.var_names.tolist() == list(WORDS)
    assert found.var["motif_name"].tolist() == ["ALPHA", "BETA", "GAMMA"]
    assert found.obs.equals(atac.obs)
    assert "X_any" in found.obsm
    assert found.X.dtype == found.layers["deviations"].dtype == np.float32
    assert [record["verb"] for record in read_history(found.uns)] == ["preprocess motifs"]
    header, kept = read_npz(tmp_path / "m.npz", "motif-matches")
    match = sparse.csc_matrix((np.ones(len(kept["indices"])), kept["indices"], kept["indptr"]), shape=header["shape"])
    assert kept["motifs"].tolist() == list(WORDS)
    np.testing.assert_array_equal(np.diff(kept["indptr"]), found.var["n_peaks"])
    for k, name in enumerate(WORDS):
        expected = atac.var_names[files.planted[name][files.planted[name] < PEAKS - 1]]
        matched = kept["peaks"][match[:, k].nonzero()[0]]
        assert set(expected) <= set(matched)
        assert len(matched) < 1.4 * len(expected)
    mean = pd.DataFrame(found.X, columns=list(WORDS)).groupby(found.obs["type"].to_numpy()).mean()
    assert mean["M1_ALPHA"]["a"] > 3 > 0 > mean["M1_ALPHA"][["b", "c"]].max()
    assert mean["M2_BETA"]["b"] > 3 > 0 > mean["M2_BETA"][["a", "c"]].max()
    assert mean["M3_GAMMA"].abs().max() < 1


@pytest.mark.slow
# Fold changes, which scanpy adds of its own accord, do not exist for z-scores.
@pytest.mark.filterwarnings("ignore:invalid value encountered in log2:RuntimeWarning")
def test_groups_of_cells_are_compared_by_scanpy(files: Files, tmp_path: Path) -> None:
    scanpy = pytest.importorskip("scanpy")
    run(files, tmp_path / "m.h5ad")
    found = anndata.read_h5ad(tmp_path / "m.h5ad")
    scanpy.tl.rank_genes_groups(found, "type", groups=["a"], reference="b", method="wilcoxon")
    table = scanpy.get.rank_genes_groups_df(found, "a").set_index("names")
    assert table.index[0] == "M1_ALPHA"
    assert table.index[-1] == "M2_BETA"
    assert (table.loc[["M1_ALPHA", "M2_BETA"], "pvals_adj"] < 1e-8).all()
    assert table.loc["M3_GAMMA", "pvals_adj"] > 1e-3


def test_the_same_run_gives_the_same_bytes_and_another_seed_the_same_answer(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, threads in (("a", "1"), ("b", "3")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run(files, tmp_path / f"{name}.h5ad", matches_output=tmp_path / f"{name}.npz")
    for ending in ("h5ad", "npz"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    run(files, tmp_path / "c.h5ad", seed=1)
    one, other = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ac")
    assert (one.X != other.X).any()
    assert np.corrcoef(one.X.ravel(), other.X.ravel())[0, 1] > 0.95


def test_entries_of_little_evidence_are_zero_and_counted(files: Files, tmp_path: Path) -> None:
    low = run(files, tmp_path / "a.h5ad", min_expected=0.0)
    high = run(files, tmp_path / "b.h5ad", min_expected=100.0)
    one, other = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    assert low["share_below_min_expected"] == 0 < high["share_below_min_expected"] < 1
    assert other.var["n_below"].sum() == (other.X == 0).sum()
    kept = other.X != 0
    np.testing.assert_array_equal(one.X[kept], other.X[kept])


def test_motifs_without_a_match_are_left_out_and_told(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    short = ">S1 SHORT\n9 0 0\n0 9 0\n0 0 9\n0 0 0\n"
    long = ">L1 LONG\n" + "\n".join(" ".join("9" if i % 4 == b else "0" for i in range(40)) for b in range(4)) + "\n"
    (tmp_path / "some.txt").write_text(files.motifs.read_text() + short + long)
    summary = run(files, tmp_path / "m.h5ad", motifs=tmp_path / "some.txt", p_value=1e-14)
    assert (summary["motifs_without_matches"], summary["motifs_of_best_sites"]) == (1, 4)
    assert "1 motifs have no match and are left out, such as L1_LONG" in caplog.text
    assert "4 motifs are too short or vague for --p-value 1e-14, such as M1_ALPHA" in caplog.text
    assert anndata.read_h5ad(tmp_path / "m.h5ad").var_names.tolist() == [*WORDS, "S1_SHORT"]
    (tmp_path / "none.txt").write_text(long)
    with pytest.raises(InputError, match="none of 1 motifs has a match in 899 peaks"):
        run(files, tmp_path / "n.h5ad", motifs=tmp_path / "none.txt", p_value=1e-14)
    assert not (tmp_path / "n.h5ad").exists()


def test_bad_inputs(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "m.h5ad"

    def changed(change) -> Path:  # type: ignore[no-untyped-def]
        adata = anndata.read_h5ad(files.atac)
        adata = change(adata)
        write_h5ad(adata, tmp_path / "changed.h5ad", force=True)
        return tmp_path / "changed.h5ad"

    def renamed(old: str, new: str):  # type: ignore[no-untyped-def]
        def change(adata: anndata.AnnData) -> anndata.AnnData:
            adata.var_names = [name.replace(old, new) for name in adata.var_names]
            return adata

        return change

    with pytest.raises(InputError, match=r"1 chromosomes of the peaks are not in .*: 'chr7'"):
        run(files, out, input=changed(renamed("chr2:", "chr7:")))
    with pytest.raises(InputError, match=r"1 peaks reach beyond the end of their chromosome .*chr1:0-999999"):
        run(files, out, input=changed(renamed("chr1:0-200", "chr1:0-999999")))
    (tmp_path / "n.fa").write_text(f">chr1\n{'N' * 250}{files.genome.read_text().split(chr(10))[1][250:]}\n>chr2\n")
    with (tmp_path / "n.fa").open("a") as handle:
        handle.write(files.genome.read_text().split("\n")[3] + "\n")
    with pytest.raises(InputError, match="1 peaks have no known base in the genome, first 'chr1:0-200'"):
        run(files, out, genome=tmp_path / "n.fa")
    (tmp_path / "bad.txt").write_text(files.motifs.read_text()[:-30])
    with pytest.raises(InputError, match="motif M3"):
        run(files, out, motifs=tmp_path / "bad.txt")
    for options, what in (
        ({"p_value": 0.0}, "--p-value 0.0"),
        ({"pseudocount": 0.0}, "--pseudocount 0.0 must be above 0"),
        ({"base_frequencies": "any"}, "--base-frequencies is 'any'"),
        ({"background_draws": 1}, "--background-draws 1 must be at least 2"),
        ({"background_width": 0.0}, "--background-width 0.0"),
        ({"background_bins": 0}, "--background-bins 0"),
        ({"min_expected": -1.0}, "--min-expected -1.0"),
    ):
        with pytest.raises(UsageError, match=what):
            run(files, out, **options)
    assert not out.exists()
    plan = run(files, out, dry_run=True)
    assert plan == {"cells": CELLS, "peaks": PEAKS - 1, "peaks_without_counts": 1, "motifs": 3}
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(OutputExistsError):
        run(files, out)
    assert out.read_text() == "mine"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_motifs_of_jaspar_match_random_sequence_as_often_as_their_p_value_says() -> None:
    motifs = read_jaspar(SHARED / "genome" / "JASPAR2024_CORE_human.jaspar.gz")
    assert len(motifs) == 755
    rng = np.random.default_rng(0)
    codes = [rng.integers(4, size=500, dtype=np.uint8) for _ in range(400)]
    counts = [motif.counts_l4 for motif in motifs[::8]]
    match, _, rare = match_motifs(codes, counts, frequencies_of(codes))
    assert 0.6 < rare.mean() < 1
    sites = np.array([2 * (501 - len(one)) for one in counts])
    expected = 400 * (1 - (1 - 5e-5) ** sites)
    assert 0.85 < np.diff(match.indptr)[rare].sum() / expected[rare].sum() < 1.05
