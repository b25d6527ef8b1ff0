"""``scmap select-markers --benchmark``: methods, numbers of genes and splits in one table, over processes, resumable.

One job is one method on one split, at one number of genes or, for methods whose smaller choices are beginnings of the
larger ones, at all of them. Finished jobs are lines of ``.NAME.partial.jsonl`` beside the output, which the same
command reads again and removes at the end. How long choosing took is in ``<output>.run.json``: the table itself is the
same in every run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.errors import DeviceError, InputError, StoppedError, UsageError
from scmap_cli.io.atomic import text_file, write_text
from scmap_cli.io.text import open_text
from scmap_cli.markers.base import run_selector
from scmap_cli.metrics.markers import overall_scores
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.markers import benchmark_curves
from scmap_cli.registry import get_selector
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.signals import StopFlag
from scmap_cli.runtime.threads import current_threads, set_threads, threads_of_children
from scmap_cli.stages.marker_jobs import AS_PUBLISHED, SHORT, Job, job_name, report, tables
from scmap_cli.stages.panel import Fold, Panel, check_classes, check_splits, load_panel
from scmap_cli.training.device import resolve_device


def read_methods(path: Path) -> list[tuple[str, bool]]:
    """Methods of a file, one a line, each optionally followed by ``as-published``; ``#`` begins a comment.

    Raises
    ------
    UsageError
        A method is unknown or named twice, or there is none.
    """
    methods: list[tuple[str, bool]] = []
    with open_text(path) as handle:
        for number, line in enumerate(handle, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if words[1:] not in ([], [AS_PUBLISHED]):
                raise UsageError(f"{path}, line {number}: {' '.join(words[1:])!r} is not {AS_PUBLISHED}")
            one = get_selector(words[0]).name, len(words) == 2
            if one in methods:
                raise UsageError(f"{path}, line {number}: {' '.join(words)} is named twice")
            methods.append(one)
    if not methods:
        raise UsageError(f"{path} names no method", "write one method a line")
    return methods


def marker_benchmark(
    input: Path,
    output: Path,
    methods: Path,
    *,
    label_key: str | None = None,
    exclude_labels: Sequence[str] = (),
    k_grid: Sequence[int] = (50,),
    splits: int = 3,
    summary: Path | None = None,
    workers: int | None = None,
    raw_depth: bool = False,
    plot: Path | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Choose genes by every method from the training cells of every split, and score them on its test cells.

    Parameters
    ----------
    input
        Raw counts.
    output
        TSV: a row a method, number of genes and split, with :data:`MEASURES`. ``-`` gives the text back alone.
    methods
        File of methods, see :func:`read_methods`.
    label_key, exclude_labels, layer, gene_column
        As :func:`scmap_cli.stages.panel.load_panel`. Without labels only methods that need none can be compared.
    k_grid
        Numbers of genes.
    splits
        Number of splits.
    summary
        Also write mean and standard deviation over the splits.
    workers
        Processes; by default one a thread of the run. Each gets an equal share of the threads.
    raw_depth
        Values are log(1 + counts) in the place of log1p CP10k.
    plot
        Also draw accuracy and error by method and number of genes.
    seed
        Of splits and methods.
    device
        Where MarkerMap is trained; the other methods run on the CPU.
    force, dry_run
        Replace outputs; check alone.

    Returns
    -------
    dict
        ``table`` and ``summary`` as text, and ``seconds``: mean seconds of choosing by method.

    Raises
    ------
    UsageError
        Options that make no sense, or what an earlier run left was begun with other ones.
    InputError
        The input is unfit.
    StoppedError
        A signal came; what is finished is kept for the next run.
    """
    check_splits(splits)
    grid = tuple(sorted(set(k_grid)))
    if grid[0] < 1:
        raise UsageError(f"a number of genes must be at least 1, not {grid[0]}")
    processes = current_threads() if workers is None else workers
    if processes < 1:
        raise UsageError(f"--workers must be at least 1, not {processes}")
    listed = read_methods(methods)
    names = [Job(*one, 0, ()).name for one in listed]
    loading = {
        **{"label_key": label_key, "exclude_labels": list(exclude_labels)},
        **{"layer": layer, "gene_column": gene_column, "raw_depth": raw_depth},
    }
    panel = load_panel(input, **loading)  # type: ignore[arg-type]
    _check_methods(panel, listed, grid[-1])
    if any(get_selector(name).on_device for name, _ in listed):
        resolve_device(device)
    jobs = list(_jobs(listed, grid, splits))
    if dry_run:
        log.info("would run %d jobs: %d methods on %d splits", len(jobs), len(listed), splits)
        return {"table": "", "summary": "", "seconds": {}}
    parameters = {**loading, "methods": names, "k_grid": list(grid), "splits": splits}
    to_file = text_file(output)
    reads = [input, methods]
    with provenance.run("select-markers", inputs=reads, output=to_file, parameters=parameters, seed=seed) as run:
        partial = None if to_file is None else to_file.with_name(f".{to_file.name}.partial.jsonl")
        record = json.dumps({key: value for key, value in run.record.items() if key != "inputs"}, sort_keys=True)
        digests = [entry["digest"] for entry in run.record["inputs"]][:1]
        done = {} if partial is None else _resume(partial, f"{record} {digests}", force)
        rows = _run(jobs, done, partial, panel, input, loading, (seed, device), processes)
        table, means = tables(rows, listed, grid)
        seconds = {name: float(np.mean([row["seconds"] for row in rows if job_name(row) == name])) for name in names}
        run.note(selection_seconds={name: round(value, 3) for name, value in seconds.items()}, workers=processes)
        if to_file is not None:
            write_text(to_file, table, force)
        if summary is not None:
            write_text(summary, means, force)
        if plot is not None:
            publish(plot, force, "the benchmark", benchmark_curves, rows, names)
        if partial is not None:
            partial.unlink(missing_ok=True)
    for line in report(rows, listed, grid, seconds):
        log.info("%s", line)
    return {"table": table, "summary": means, "seconds": seconds}


def _check_methods(panel: Panel, listed: Sequence[tuple[str, bool]], largest: int) -> None:
    check_classes(panel)
    if largest > len(panel.genes):
        raise InputError(f"{largest} genes are wanted of {len(panel.genes)}", "lower --k-grid")
    for name, _ in listed:
        spec = get_selector(name)
        if spec.needs_labels and panel.codes is None:
            raise InputError(f"the method {name} needs labels", "name their column with --label-key")
        spec.load()


def _jobs(listed: Sequence[tuple[str, bool]], grid: tuple[int, ...], splits: int) -> Iterator[Job]:
    """Jobs split by split, so that a process can keep the scaled values of one split."""
    for split in range(splits):
        for name, published in listed:
            for ks in [grid] if get_selector(name).nested else [(k,) for k in grid]:
                yield Job(name, published, split, ks)


def work(job: Job, fold: Fold, device: str) -> list[dict[str, Any]]:
    """Do one job: a row a number of genes, with the seconds that choosing took."""
    spec = get_selector(job.method)
    data = fold.data()
    started = time.perf_counter()
    found = run_selector(spec, data, max(job.ks), seed=fold.seed, as_published=job.as_published, device=device)
    seconds = time.perf_counter() - started
    rows = []
    for k in job.ks:
        genes = found.first(k).genes
        row = {**asdict(job), "k": k, "seconds": seconds, **fold.linear_errors(genes)}
        del row["ks"]
        if fold.panel.codes is not None:
            for classifier, confusion in fold.confusions(genes).items():
                row |= {f"{SHORT[classifier]}_{key}": value for key, value in overall_scores(confusion).items()}
        rows.append(row)
    return rows


class _Worker:
    """State of a worker process: the input once, and the split of the last job."""

    panel: Panel
    seed: int
    device: str
    fold: Fold | None = None

    def do(self, job: Job) -> list[dict[str, Any]]:
        if self.fold is None or self.fold.number != job.split:
            self.fold = Fold(self.panel, job.split, self.seed)
        return work(job, self.fold, self.device)


_STATE = _Worker()


def _begin(path: Path, loading: dict[str, Any], seed: int, device: str, threads: int) -> None:
    set_threads(threads)
    _STATE.panel, _STATE.seed, _STATE.device = load_panel(path, **loading), seed, device


def _do(job: Job) -> list[dict[str, Any]]:
    return _STATE.do(job)


def _run(
    jobs: Sequence[Job],
    done: dict[str, list[dict[str, Any]]],
    partial: Path | None,
    panel: Panel,
    path: Path,
    loading: dict[str, Any],
    run_by: tuple[int, str],
    processes: int,
) -> list[dict[str, Any]]:
    """Rows of all jobs in their order; finished ones are added to ``done`` and to the file."""
    waiting = [job for job in jobs if str(job) not in done]
    if len(waiting) < len(jobs):
        log.info("%d of %d jobs were finished before", len(jobs) - len(waiting), len(jobs))

    def finished(job: Job, rows: list[dict[str, Any]]) -> None:
        done[str(job)] = rows
        if partial is not None:
            with partial.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"job": str(job), "rows": rows}) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
        log.info("%d/%d %s, split %d: %.1f s", len(done), len(jobs), job.name, job.split, rows[0]["seconds"])

    processes = min(processes, max(len(waiting), 1))
    with StopFlag(saves=partial is not None) as stop:
        if processes == 1:
            here = _Worker()
            here.panel, (here.seed, here.device) = panel, run_by
            for job in waiting:
                _check_stop(stop)
                finished(job, here.do(job))
        else:
            share = max(current_threads() // processes, 1)
            with threads_of_children(share):
                _run_pool(waiting, finished, (path, loading, *run_by, share), processes, stop)
    return [row for job in jobs for row in done[str(job)]]


def _run_pool(
    waiting: Sequence[Job],
    finished: Callable[[Job, list[dict[str, Any]]], None],
    arguments: tuple[Path, dict[str, Any], int, str, int],
    processes: int,
    stop: StopFlag,
) -> None:
    """Keep one job a process in hand, so that a stop waits for no more than those."""
    left = iter(waiting)
    running: dict[Future, Job] = {}
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, arguments) as pool:
        try:
            for job in left:
                running[pool.submit(_do, job)] = job
                if len(running) < processes:
                    continue
                _collect(running, finished)
                if stop.stopped:
                    break
            while running:
                _collect(running, finished)
            _check_stop(stop)
        except BrokenProcessPool:
            # A signal to the whole group, as schedulers send it, ends the workers too.
            _check_stop(stop)
            raise DeviceError(
                "a worker process was killed, which the system does when memory runs out",
                "run the same command again with fewer --workers; what is finished is kept",
            ) from None
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _collect(running: dict[Future, Job], finished: Any) -> None:
    for future in wait(running, timeout=None, return_when=FIRST_COMPLETED).done:
        finished(running.pop(future), future.result())


def _check_stop(stop: StopFlag) -> None:
    if stop.stopped:
        raise StoppedError(
            f"stopped by {stop.signal_name}; what is finished is kept", "run the same command again to go on"
        )


def _resume(partial: Path, record: str, force: bool) -> dict[str, list[dict[str, Any]]]:
    """Rows of finished jobs by job; the file is begun where there is none."""
    try:
        lines = partial.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    if lines and json.loads(lines[0]).get("run") == record:
        done: dict[str, list[dict[str, Any]]] = {}
        whole = lines[:1]
        for line in lines[1:]:
            try:
                entry = json.loads(line)
            except ValueError:
                # A kill while the last line was written.
                continue
            whole.append(line)
            done[entry["job"]] = entry["rows"]
        # What comes next must not be appended to half a line.
        write_text(partial, "\n".join(whole) + "\n", force=True)
        return done
    if lines and not force:
        raise UsageError(
            f"{partial} is left from a run with other options or input", "remove it, or give --force to begin anew"
        )
    write_text(partial, json.dumps({"run": record}) + "\n", force=True)
    return {}
