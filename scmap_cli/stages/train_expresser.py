"""``scmap train expresser``: pretrain the Expression Transformer on a corpus, publish its directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.config import PretrainConfig, build
from scmap_cli.data.corpus import CorpusRows
from scmap_cli.data.decomposition import gene_svd
from scmap_cli.data.splits import validation_split
from scmap_cli.data.tokens import TokenStore
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import features_digest, load_bundle
from scmap_cli.io.shards import Corpus, names_of, open_corpus
from scmap_cli.models.expresser import Expresser, ExpresserConfig
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.runtime.logs import log
from scmap_cli.stages.model_dir import TrainingData
from scmap_cli.stages.training_run import training_run

DEFAULTS: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 32,
    "lr": 1e-4,
    "adam_eps": 1e-8,
    "weight_decay": 0.01,
    "validation_share": 0.05,
    "patience": 0,
    "lr_patience": 0,
    "sampling": "shuffle",
    "grad_clip": 1.0,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 0.05,
}
"""Training settings of Expresser that differ from :class:`~scmap_cli.config.PretrainConfig`."""

#: options that weights of the same shapes depend on
_ALIKE = ("heads", "binning", "residual")
#: training cells whose co-expression gene tokens begin as
_SAMPLE = 5_000


def train_expresser(
    input: Path,
    output: Path,
    *,
    exclude_studies: Sequence[str] = (),
    start_from: Path | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: str = "auto",
    metrics: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Pretrain Expresser and write the model directory.

    Parameters
    ----------
    input
        Corpus folder of ``scmap preprocess corpus``.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    exclude_studies
        Studies that are not trained on.
    start_from
        Model directory whose weights are the start (fine-tuning); genes, sizes, bins and decoder must be the same.
    model_options, train_options
        Fields of :class:`~scmap_cli.models.expresser.ExpresserConfig` and :class:`~scmap_cli.config.PretrainConfig`
        that differ from the defaults.
    seed, device, resume, metrics, force, dry_run
        As :func:`scmap_cli.stages.train_expimap.train_expimap`.

    Returns
    -------
    dict
        The contents of ``metrics.json``; for a dry run the plan.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    input, output = Path(input), Path(output)
    settings = build(PretrainConfig, DEFAULTS, train_options or {}, where="[train]")
    config = build(ExpresserConfig, model_options or {}, where="[model]")
    corpus = open_corpus(input)
    with training_run(
        Expresser.name, output, config, settings, inputs=[input, start_from],
        parameters={"exclude_studies": list(exclude_studies), "start_from": start_from},
        batch_key=None, seed=seed, device=device, resume=resume, metrics=metrics, force=force, dry_run=dry_run,
    ) as (training, run):  # fmt: skip
        corpus.verify()
        local = training.ranks.local_world
        job, mean_genes, mean_tokens, mean_value = _prepare(corpus, exclude_studies, config, settings, seed, local)
        network = Expresser.create(config, len(corpus.genes), mean_tokens, mean_value, mixed_seed(seed, "init"))
        if start_from is not None:
            _start(network, start_from, corpus)
        plan = {
            "cells": len(job.held),
            "validation_cells": int(job.held.sum()),
            "genes": len(corpus.genes),
            "genes_per_cell": round(mean_genes, 1),
            "studies": [study for study in corpus.studies if study not in exclude_studies],
            "parameters": network.report()["parameters"],
            "epochs": settings.epochs,
            "cells_per_step": settings.batch_size * settings.accumulate * training.ranks.world,
            "device": str(training.device),
            "processes": training.ranks.world,
        }
        log.info(
            "%d cells (%d for validation) of %d studies, %d genes, %.0f of them a cell, %d parameters, %d epochs on %s",
            plan["cells"], plan["validation_cells"], len(plan["studies"]), plan["genes"], mean_genes,
            plan["parameters"], settings.epochs, training.device,
        )  # fmt: skip
        if dry_run:
            return plan
        known = start_from is not None or config.gene_start == "random"
        begin = None if known else partial(_start_genes, network, job, seed)
        return training.fit(network, job, run, {"excluded": sorted(exclude_studies)}, begin=begin)


def _prepare(
    corpus: Corpus,
    excluded: Sequence[str],
    config: ExpresserConfig,
    settings: PretrainConfig,
    seed: int,
    processes: int,
) -> tuple[TrainingData, float, float, float]:
    """The cells of a run; the mean number of their genes, and of those in a step; the mean of the expressed values."""
    strange = sorted(set(excluded) - set(corpus.studies))
    if strange:
        raise UsageError(
            f"the corpus has no study {strange[0]!r}", f"it has {', '.join(map(repr, corpus.studies[:12]))}"
        )
    rows = CorpusRows(corpus, processes)
    tables = [corpus.columns(number, "study", "edges") for number in range(len(corpus.parts))]
    study_n = np.concatenate([table["study"] for table in tables]).astype(np.int64)
    length_n = np.concatenate([np.diff(table["edges"]) for table in tables])
    taken = length_n >= 2
    if not taken.all():
        log.warning("%d cells with a single gene are not trained on", int((~taken).sum()))
    taken &= ~np.isin(study_n, [corpus.studies.index(study) for study in excluded])
    place = np.flatnonzero(taken)
    if len(place) < 2:
        raise InputError(f"{corpus.path} has {len(place)} cells to train on", "exclude fewer studies")
    held = validation_split(study_n[place], settings.validation_share, seed)
    mean_g, mean_value = _means(rows, place[~held])
    job = TrainingData(
        counts=sparse.csr_matrix((0, 0)),
        genes=corpus.genes,
        cells=np.zeros(0, dtype=str),
        codes=study_n[place],
        conditions=corpus.studies,
        held=held,
        names=[f"d{i + 1}" for i in range(config.width)],
        means=mean_g,
        source="corpus",
        described={"excluded_studies": sorted(excluded)},
        store=TokenStore(rows, study_n, limit=config.max_genes),
        rows=place,
        digest=corpus.digest(),
        read_cells=partial(_names, corpus, taken),
    )
    in_step = np.minimum(length_n[place[~held]], config.max_genes)
    return job, float(length_n[place].mean()), float(in_step.mean()), mean_value


def _names(corpus: Corpus, taken: np.ndarray) -> Iterator[str]:
    """Names of the cells that are taken, a part at a time."""
    start = 0
    for number, part in enumerate(corpus.parts):
        names = names_of(corpus.columns(number, "cell")["cell"], part.cells)
        yield from (name for name, one in zip(names, taken[start : start + part.cells].tolist(), strict=True) if one)
        start += part.cells


def _means(rows: CorpusRows, place: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean count of every gene, and mean log1p CP10k of the expressed entries, over the training cells."""
    sum_g = np.zeros(len(rows.corpus.genes))
    total, entries = 0.0, 0
    for start in range(0, len(place), 8192):
        gene_t, count_t, length_n = rows.read(place[start : start + 8192])
        sum_g += np.bincount(gene_t, weights=count_t, minlength=len(sum_g))
        cell_t = np.repeat(np.arange(len(length_n)), length_n)
        size_n = np.bincount(cell_t, weights=count_t, minlength=len(length_n))
        total += float(np.log1p(count_t * (1e4 / size_n)[cell_t]).sum())
        entries += len(gene_t)
    return sum_g / len(place), total / max(entries, 1)


def _start_genes(network: Expresser, job: TrainingData, seed: int) -> None:
    """Let gene tokens begin as the co-expression of a sample of the training cells."""
    store, place = job.store, job.rows
    assert isinstance(store, TokenStore)
    assert place is not None
    drawn = np.random.default_rng(mixed_seed(seed, "init", 1)).permutation(place[~job.held])[:_SAMPLE]
    gene_t, count_t, length_n = store.rows.read(np.sort(drawn))
    edges = np.concatenate([[0], np.cumsum(length_n)])
    counts = sparse.csr_matrix((count_t.astype(np.float32), gene_t, edges), shape=(len(drawn), len(job.genes)))
    components = min(network.config.width, min(counts.shape) - 1)
    if components > 0:
        network.start_genes(gene_svd(counts, components, seed=seed))


def _start(network: Expresser, path: Path, corpus: Corpus) -> None:
    """Take the weights of a trained model."""
    bundle = load_bundle(path)
    if bundle.config["model"] != "expresser":
        raise UsageError(
            f"{path} holds a model of type {bundle.config['model']}", "give one of `scmap train expresser`"
        )
    if features_digest(bundle.features) != features_digest(corpus.genes):
        raise InputError(f"{path} has another gene list than the corpus", f"build the corpus with --genes {path}")
    found = bundle.config["model_config"]
    for key in _ALIKE:
        wanted = getattr(network.config, key)
        if found[key] != wanted:
            raise UsageError(
                f"{path} was trained with {key} {found[key]!r}, not {wanted!r}",
                "give the same --preset and model options",
            )
    try:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in bundle.tensors.items()})
    except RuntimeError as error:
        raise UsageError(
            f"{path} has other sizes: {str(error).splitlines()[-1].strip()}", "give the same --preset and model options"
        ) from None
