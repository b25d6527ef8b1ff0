"""Peaks from fragments by MACS3, the field's own caller, run as a program of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bed import read_bed
from scmap_cli.io.fragments import Block, map_blocks
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.threads import current_threads

# ENCODE's settings for ATAC: 150 bases around each cut, no model of the fragments, all copies kept, since a fragment
# file has none left.
_SETTINGS = ("--nomodel", "--shift", "-75", "--extsize", "150", "--keep-dup", "all")


def find_macs3() -> tuple[str, str]:
    """The program and its version.

    Raises
    ------
    UsageError
        MACS3 is not installed.
    """
    beside = str(Path(sys.executable).parent)
    program = shutil.which("macs3", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if program is None:
        raise UsageError("--call needs MACS3, which is not installed", "pip install 'scmap-cli[peaks]'")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    words = said.stdout.split()
    if said.returncode or not words:
        raise UsageError(f"{program} does not start: {_last_line(said.stderr)}", "pip install 'scmap-cli[peaks]'")
    return program, words[-1]


def call_peaks(path: Path, program: str, genome_size: str, q_value: float) -> pd.DataFrame:
    """Call peaks in the cuts of a fragments file.

    Parameters
    ----------
    path
        Fragments; temporary files of about 15 bytes a cut go to ``$TMPDIR``.
    program
        From :func:`find_macs3`.
    genome_size, q_value
        MACS3's ``-g`` and ``-q``.

    Returns
    -------
    DataFrame
        As :func:`~scmap_cli.io.bed.read_bed`, with MACS3's signal as score and its summits.

    Raises
    ------
    InputError
        The file is unfit, or MACS3 fails or finds nothing.
    """
    with TemporaryDirectory(prefix="scmap-") as folder:
        cuts = Path(folder) / "cuts.bed"
        with cuts.open("wb") as handle:
            for text in map_blocks(path, _cut_rows, threads=current_threads()):
                handle.write(text)
        if not cuts.stat().st_size:
            raise InputError(f"{path} holds no fragments", "give a file of chromosome, start, end and barcode")
        command = [program, "callpeak", "-t", str(cuts), "-f", "BED", "-g", genome_size, "-q", str(q_value)]
        command += [*_SETTINGS, "-n", "called", "--outdir", folder]
        log.info("calling peaks in %s", path)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"MACS3 fails on {path}: {_last_line(done.stderr)}", "see --genome-size")
        found = Path(folder) / "called_peaks.narrowPeak"
        if not found.exists() or not found.stat().st_size:
            raise InputError(f"MACS3 finds no peaks in {path}", "raise --q-value, or check --genome-size")
        return read_bed(found)


def _cut_rows(block: Block) -> bytes:
    """BED rows of both cuts of each fragment, one base each."""
    names = np.array(block.chroms, dtype=object)[block.chrom].tolist()
    cuts = zip(names, block.start.tolist(), block.end.tolist(), strict=True)
    return "".join(
        f"{name}\t{start}\t{start + 1}\t.\t.\t+\n{name}\t{end - 1}\t{end}\t.\t.\t-\n" for name, start, end in cuts
    ).encode()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "it says nothing"
