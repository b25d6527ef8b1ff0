"""Two ways to run scmap in a fresh folder: in this process (fast), or as a process of its own (streams, signals)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest

from scmap_cli.cli.app import main
from scmap_cli.runtime.logs import log

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)


class Scmap:
    """``scmap("info", path)`` runs in this process, ``scmap.process(...)`` in another; both in ``self.folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: object, status: int | None = 0) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([str(word) for word in words])
            except SystemExit as end:
                code = end.code
        return self._checked(Result(int(code or 0), out.getvalue(), err.getvalue()), status)

    def process(self, *words: object, status: int | None = 0, env: dict[str, str] | None = None, **options) -> Result:
        command = [sys.executable, "-m", "scmap_cli", *map(str, words)]
        settings = {"cwd": self.folder, "env": self.environment() | (env or {}), "text": True, "timeout": 120}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        done = subprocess.run(command, check=False, **(settings | streams | options))
        return self._checked(Result(done.returncode, done.stdout or "", done.stderr or ""), status)

    @staticmethod
    def environment() -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    @staticmethod
    def _checked(result: Result, status: int | None) -> Result:
        if status is not None and result.status != status:
            pytest.fail(f"exit code {result.status}, not {status}\n{result.out}\n{result.err}")
        return result

    def files(self) -> dict[str, bytes]:
        """Every file below the folder with its bytes."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put back what a command sets for its whole process: environment, logging, torch's threads."""
    environment, handlers, level = dict(os.environ), list(log.handlers), log.level
    try:
        yield
    finally:
        numba_threads = os.environ.get("NUMBA_NUM_THREADS")
        os.environ.clear()
        os.environ.update(environment)
        if numba_threads and "numba" in sys.modules:
            # numba reads it again at each compilation, and must find the number that its threads were started with.
            os.environ["NUMBA_NUM_THREADS"] = numba_threads
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = True
        logging.captureWarnings(False)


@pytest.fixture
def scmap(tmp_path) -> Iterator[Scmap]:
    folder = tmp_path / "work"
    folder.mkdir()
    with undisturbed():
        yield Scmap(folder)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """Small finished files: data.h5ad, programs.npz, sets.gmt, model/, embedded.h5ad, embedded.npz; for ATAC atac.h5ad,
    genes.bed, genome.fa, motifs.txt, fragments.tsv, peaks.bed, sailer/, pair.h5ad and multiome.h5ad.
    """
    folder = tmp_path_factory.mktemp("shelf")
    scmap = Scmap(folder)
    with undisturbed():
        planted = ("--programs-output", "programs.npz", "--gmt-output", "sets.gmt")
        scmap("simulate", "rna", "-o", "data.h5ad", "--preset", "tiny", *planted)
        scmap("simulate", "atac", "-o", "atac.h5ad", "--preset", "tiny")
        rng = np.random.default_rng(0)
        ends = anndata.read_h5ad(folder / "atac.h5ad").var.groupby("chrom", observed=True)["end"].max()
        with (folder / "genome.fa").open("wb") as handle:
            for name, end in ends.items():
                bases = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(4, size=end, dtype=np.uint8)]
                handle.write(f">{name}\n".encode() + bases.tobytes() + b"\n")
        (folder / "motifs.txt").write_text(">M1 ONE\n9 0 0 0 9 0\n0 9 0 9 0 0\n0 0 9 0 0 9\n1 1 1 1 1 1\n")
        (folder / "genes.bed").write_text("chr1\t5000\t60000\tGENE1\t0\t+\nchr2\t100000\t400000\tGENE2\t0\t-\n")
        short = ("--epochs", 1, "--hidden", "8", "-t", 1, "--device", "cpu")
        scmap(
            "train", "expimap", "data.h5ad", "-o", "model", "--programs", "programs.npz", "--batch-key", "batch", *short
        )
        pair = anndata.read_h5ad(folder / "data.h5ad")
        pair.var_names = [f"chr{i % 2 + 1}:{i * 9}-{i * 9 + 5}" for i in range(pair.n_vars)]
        pair.write_h5ad(folder / "pair.h5ad")
        paired = ("--rna", "data.h5ad", "--atac", "pair.h5ad", "--components", 4, "-t", 1)
        scmap("preprocess", "multiome", *paired, "-o", "multiome.h5ad")
        (folder / "fragments.tsv").write_text("".join(f"chr1\t{i * 9}\t{i * 9 + 50}\tcell{i % 4}\n" for i in range(80)))
        (folder / "peaks.bed").write_text("chr1\t100\t200\nchr1\t300\t400\n")
        for output in ("embedded.h5ad", "embedded.npz"):
            scmap("embed", "model", "data.h5ad", "-o", output, "--device", "cpu", "-t", 1)
        small = ("--hidden", "8,6", "--batch-size", 64, *short[:2], *short[4:])
        scmap("train", "sailer", "data.h5ad", "-o", "sailer", "--batch-key", "batch", *small)
        scmap("preprocess", "corpus", "data.h5ad", "-o", "corpus.zarr", "--study-key", "batch")
        scmap("train", "expresser", "corpus.zarr", "-o", "expresser", *EXPRESSER)
        scmap("embed", "--genes", "expresser", "-o", "genes.tsv", "--device", "cpu")
        names = [line.split()[0] for line in (folder / "genes.tsv").read_text().splitlines()[1:]]
        (folder / "scores.tsv").write_text("".join(f"{name}\t{i % 7}\n" for i, name in enumerate(names)))
    return folder


#: a training of a second
EXPRESSER = (
    "--preset",
    "tiny",
    "--width",
    16,
    "--layers",
    1,
    "--epochs",
    1,
    "--max-genes",
    32,
    "-t",
    1,
    "--device",
    "cpu",
)

#: a command line of every verb that works on the shelf, without its output
COMMANDS = {
    "preprocess atac": (
        *("{shelf}/fragments.tsv", "--peaks", "{shelf}/peaks.bed", "-o", "out.h5ad"),
        *("--min-fragments", "1"),
    ),
    "preprocess peaks": ("{shelf}/peaks.bed", "-o", "out.bed"),
    "preprocess rna": ("{shelf}/data.h5ad", "-o", "out.h5ad"),
    "preprocess multiome": (
        *("--rna", "{shelf}/data.h5ad", "--atac", "{shelf}/pair.h5ad", "-o", "out.h5ad"),
        *("--components", "4"),
    ),
    "preprocess programs": ("{shelf}/sets.gmt", "--genes", "{shelf}/data.h5ad", "-o", "out.npz"),
    "preprocess corpus": ("{shelf}/data.h5ad", "-o", "out.zarr", "--study-key", "batch"),
    "train expresser": ("{shelf}/corpus.zarr", "-o", "out", *map(str, EXPRESSER)),
    "preprocess gene-scores": ("{shelf}/atac.h5ad", "--genes", "{shelf}/genes.bed", "-o", "out.h5ad"),
    "preprocess motifs": (
        *("{shelf}/atac.h5ad", "--genome", "{shelf}/genome.fa", "--motifs", "{shelf}/motifs.txt", "-o", "out.h5ad"),
        *("--p-value", "0.001", "--matches-output", "out.npz"),
    ),
    "simulate rna": ("--preset", "tiny", "-o", "out.h5ad"),
    "train sailer": (
        *("{shelf}/pair.h5ad", "-o", "out", "--epochs", "1", "--hidden", "8,6", "--batch-size", "64"),
        *("--device", "cpu"),
    ),
    "train sailerx": (
        *("{shelf}/multiome.h5ad", "-o", "out", "--epochs", "1", "--hidden", "8,6", "--batch-size", "64"),
        *("--latent", "4", "--device", "cpu"),
    ),
    "train markermap": (
        *("{shelf}/data.h5ad", "-o", "out", "--label-key", "cell_type", "-k", "5", "--epochs", "2", "--width", "8"),
        *("--mode", "joint", "--device", "cpu"),
    ),
    "impute": ("{shelf}/sailer", "{shelf}/data.h5ad", "-o", "out.h5ad", "--device", "cpu"),
    "simulate atac": ("--preset", "tiny", "-o", "out.h5ad"),
    "train expimap": (
        *("{shelf}/data.h5ad", "--programs", "{shelf}/programs.npz", "-o", "out"),
        *("--epochs", "1", "--hidden", "8", "--device", "cpu"),
    ),
    "embed": ("{shelf}/model", "{shelf}/data.h5ad", "-o", "out.h5ad", "--device", "cpu"),
    "map-query": (
        *("{shelf}/model", "{shelf}/data.h5ad", "-o", "out.h5ad", "--model-out", "out-model"),
        *("--one-batch", "new", "--epochs", "1", "--device", "cpu"),
    ),
    "gp-test": ("{shelf}/model", "{shelf}/data.h5ad", "-o", "out.tsv", "--groupby", "cell_type", "--device", "cpu"),
    "evaluate clustering": (
        *("{shelf}/embedded.h5ad", "--label-key", "cell_type", "-o", "out.json"),
        *("-k", "10", "--resolutions", "1"),
    ),
    "evaluate integration": (
        *("{shelf}/embedded.h5ad", "--label-key", "cell_type", "--batch-key", "batch", "-o", "out.json"),
        *("--components", "5", "--resolutions", "1"),
    ),
    "evaluate invariance": ("{shelf}/embedded.h5ad", "--batch-key", "batch", "-o", "out.json"),
    "evaluate imputation": (
        *("{shelf}/atac.h5ad", "--raw", "{shelf}/atac.h5ad", "--label-key", "cell_type", "-o", "out.json"),
    ),
    "select-markers": (
        *("{shelf}/data.h5ad", "-o", "out.tsv", "--method", "t-test", "--label-key", "cell_type"),
        *("-k", "5", "--h5ad-output", "out.h5ad", "--plot", "out.png"),
    ),
    "evaluate genes": ("{shelf}/expresser", "--scores", "{shelf}/scores.tsv", "-o", "out.json"),
    "evaluate markers": (
        *("{shelf}/data.h5ad", "-o", "out.json", "--method", "hvg", "--label-key", "cell_type"),
        *("-k", "5", "--splits", "1", "--confusion-output", "out.tsv"),
    ),
    "evaluate reconstruction": (
        *("{shelf}/data.h5ad", "-o", "out.json", "--method", "greedy-columns", "-k", "5", "--splits", "1"),
    ),
    "report": ("{shelf}/data.h5ad", "{shelf}/model", "-o", "out.html"),
    "info": ("{shelf}/data.h5ad", "-o", "out.txt"),
}


@pytest.fixture(params=sorted(COMMANDS))
def command(request, shelf) -> list[str]:
    """The words of one verb's command line, which writes ``out...`` in the current folder."""
    return [*request.param.split(), *(word.format(shelf=shelf) for word in COMMANDS[request.param]), "-t", "1"]
