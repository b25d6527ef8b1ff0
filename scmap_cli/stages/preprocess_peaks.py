"""``preprocess peaks``: one set of disjoint peaks from several, so that data sets can be counted alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scmap_cli.data.peak_sets import filtered, fixed_width, reduced
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_output
from scmap_cli.io.bam import is_bam
from scmap_cli.io.bed import read_bed, read_sizes, write_bed
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.call_peaks import call_peaks, find_macs3

_GENOMES = ("hs", "mm", "ce", "dm")


def preprocess_peaks(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    width: int | None = None,
    chrom_sizes: Path | str | None = None,
    min_size: int = 0,
    max_size: int | None = None,
    keep_chrom: Sequence[str] | None = None,
    drop_chrom: Sequence[str] | None = None,
    blacklist: Path | str | None = None,
    call: bool = False,
    genome_size: str = "hs",
    q_value: float = 0.05,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Unite sets of peaks, or peaks called from fragments.

    Parameters
    ----------
    inputs
        BED or narrowPeak files; with ``call``, fragment files.
    output
        BED of three columns, sorted by chromosome name and place.
    width
        Bases of every peak, see :func:`scmap_cli.data.peak_sets.fixed_width`; None unites by reduction.
    chrom_sizes
        Chromosome lengths: peaks on other chromosomes or beyond the end are left out.
    min_size, max_size, keep_chrom, drop_chrom, blacklist
        Peaks kept. Sizes are those of the united peaks; chromosomes are chosen before peaks are united.
    call, genome_size, q_value
        Call peaks in each input with MACS3; its version goes to the record.
    seed
        Kept in the record; nothing here is random.
    force, dry_run
        Replace an existing output; check the inputs and options and write nothing.

    Returns
    -------
    dict
        JSON values: what was read, filtered and written.

    Raises
    ------
    UsageError, OutputExistsError
        Options contradict each other, MACS3 is not installed, or the output exists.
    InputError
        An input is unfit, or nothing is left of it.
    WriteError
        The output cannot be written.
    """
    paths = [Path(path) for path in inputs]
    if not paths:
        raise UsageError("no input given")
    _check_options(width, min_size, max_size, genome_size, q_value)
    check_output(output, force)
    for path in paths:
        if is_bam(path):
            raise UsageError(f"{path} is a BAM file", "give BED files, or fragment files with --call")
    program, version = find_macs3() if call else ("", None)
    sizes = None if chrom_sizes is None else read_sizes(chrom_sizes)
    regions = None if blacklist is None else read_bed(blacklist)
    parameters = {
        "width": width,
        "chrom_sizes": None if chrom_sizes is None else Path(chrom_sizes).name,
        "min_size": min_size,
        "max_size": max_size,
        "keep_chrom": list(keep_chrom or []),
        "drop_chrom": list(drop_chrom or []),
        "blacklist": None if blacklist is None else Path(blacklist).name,
        "call": {"macs3": version, "genome_size": genome_size, "q_value": q_value} if call else None,
    }
    if dry_run:
        what = "call peaks in" if call else "unite"
        log.info("would %s %s and write %s", what, ", ".join(map(str, paths)), output)
        return {"dry_run": True, "output": str(output), "inputs": [str(p) for p in paths], "parameters": parameters}

    others = [path for path in (chrom_sizes, blacklist) if path is not None]
    with provenance.run(
        "preprocess peaks", inputs=[*paths, *others], output=output, parameters=parameters, seed=seed
    ) as run:
        tables: list[pd.DataFrame] = []
        report = []
        for path in paths:
            table = call_peaks(path, program, genome_size, q_value) if call else read_bed(path)
            kept, _ = filtered(table, keep_chrom=keep_chrom, drop_chrom=drop_chrom)
            report.append({"path": str(path), "peaks": len(table), "on_chosen_chromosomes": len(kept)})
            log.info("%s: %d peaks", path, len(table))
            tables.append(kept)
        united = reduced(tables) if width is None else fixed_width(tables, width, sizes)
        if not len(united):
            raise InputError(f"no peak of {width} bases lies within its chromosome", "lower --width")
        result, taken = filtered(united, blacklist=regions, min_size=min_size, max_size=max_size, sizes=sizes)
        for name, number in taken.items():
            log.info("%d peaks dropped by %s", number, name)
        summary = {"output": str(output), "inputs": report, "united": len(united), "dropped": taken}
        summary |= {"peaks": len(result), "bases": int((result["end"] - result["start"]).sum())}
        run.note(summary=summary)
        write_bed(output, result, force)
        log.info("%s: %d peaks of %d in all inputs", output, len(result), sum(map(len, tables)))
    return summary


def _check_options(width: int | None, min_size: int, max_size: int | None, genome_size: str, q_value: float) -> None:
    for option, value, least in (("width", width, 1), ("min-size", min_size, 0), ("max-size", max_size, 1)):
        if value is not None and value < least:
            raise UsageError(f"--{option} must be at least {least}, not {value}")
    if max_size is not None and max_size < min_size:
        raise UsageError(f"--max-size {max_size} is below --min-size {min_size}")
    if not 0 < q_value < 1:
        raise UsageError(f"--q-value lies between 0 and 1, not at {q_value}")
    try:
        fits = genome_size in _GENOMES or float(genome_size) >= 1
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(f"--genome-size is {', '.join(_GENOMES)} or a number of bases, not {genome_size!r}")
