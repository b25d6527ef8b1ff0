"""``scmap evaluate genes``: what gene embeddings tell of pairs, scores and lists of genes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.data.decomposition import gene_svd
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.io.bundle import is_bundle, load_bundle
from scmap_cli.io.gene_data import read_embedding, read_links, read_lists, read_pairs, read_scores
from scmap_cli.io.gene_table import read_gene_table
from scmap_cli.metrics.genes import (
    SPLITS,
    Pairs,
    classify,
    degree_features,
    draw_negatives,
    pair_features,
    regress,
    score_pairs,
    split_pairs,
)
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.scores import gene_bars
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import load_rna, plain_records
from scmap_cli.stages.scores import check_sources, render

_FEWEST = 20
_REMEDY = "look at how genes are named; --gene-table brings identifiers and symbols together"


@dataclass(frozen=True)
class _Table:
    """An embedding of the genes that all inputs have: (g, d)."""

    name: str
    table_gd: np.ndarray


def evaluate_genes(
    inputs: Sequence[Path | str],
    output: Path | str = "-",
    *,
    gene_pairs: Path | None = None,
    test_pairs: Path | None = None,
    links: Path | None = None,
    protein_names: Path | None = None,
    channel: str = "experimental",
    positive_above: float = 200.0,
    scores: Path | None = None,
    lists: Path | None = None,
    positive_list: str | None = None,
    negative_list: str | None = None,
    pair_splits: Sequence[str] = SPLITS,
    max_pairs: int = 20000,
    coexpression: Path | None = None,
    layer: str | None = None,
    gene_table: Path | None = None,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score gene embeddings, see :mod:`scmap_cli.metrics.genes`.

    All tables are scored on the genes that all of them have, beside random vectors of the first one's size and, for
    pairs, the genes' numbers of partners.

    Parameters
    ----------
    inputs
        Embedding tables, see :func:`scmap_cli.io.gene_data.read_embedding`, or directories of Expresser models.
    output
        JSON file; ``-`` writes none.
    gene_pairs
        Pairs of genes with labels; without labels all are related, and as many others are drawn in which genes occur as
        often.
    test_pairs
        Pairs to test on; ``gene_pairs`` are then those to train on. Unrelated pairs that are drawn for either are in
        neither file, and not drawn for both. By gene, training pairs with a gene of a test pair are left out.
    links, protein_names, channel, positive_above
        STRING links as pairs, see :func:`scmap_cli.io.gene_data.read_links`.
    scores
        A score for each gene: linear regression.
    lists, positive_list, negative_list
        Lists of genes, and the two that are told apart.
    pair_splits
        ``random`` (by pair) and ``gene-disjoint``.
    max_pairs
        Most pairs that are trained on, and tested on, a seeded sample of either; 0 is all.
    coexpression
        Counts, of whose log values an SVD gives one more embedding, of the first table's size.
    layer
        Where its counts are.
    gene_table
        TSV of identifiers and symbols, by which the genes of all tables, pairs, scores and lists are named alike; those
        that it lacks keep their names.
    plot
        Draw the scores.
    seed, force, dry_run
        As elsewhere.

    Returns
    -------
    dict
        ``settings`` and one entry for each task, split and embedding in ``results``.

    Raises
    ------
    UsageError, InputError
        With exit codes 2 and 3.
    """
    if not inputs:
        raise UsageError("no input was given")
    if gene_pairs is None and links is None and scores is None and lists is None:
        raise UsageError("no task was given", "give --gene-pairs, --links, --scores or --lists")
    if lists is not None and (positive_list is None or negative_list is None):
        raise UsageError("--lists needs two of them", "give --positive-list and --negative-list")
    if test_pairs is not None and gene_pairs is None:
        raise UsageError("--test-pairs needs --gene-pairs to train on")
    strange = [name for name in pair_splits if name not in SPLITS]
    if strange or not pair_splits:
        raise UsageError(f"--pair-splits is {', '.join(pair_splits)!r}", f"choose of {', '.join(SPLITS)}")
    if max_pairs < 0:
        raise UsageError(f"--max-pairs {max_pairs} must not be negative")
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot], force=force)
    settings: dict[str, Any] = {
        "classifier": "scikit-learn GradientBoostingClassifier, its defaults, on the two vectors of a pair",
        "pair_splits": list(pair_splits),
        "max_pairs": max_pairs,
        "channel": channel if links is not None else None,
        "positive_above": positive_above if links is not None else None,
        "lists": [positive_list, negative_list] if lists is not None else None,
        "seed": seed,
    }
    more = (gene_pairs, test_pairs, links, protein_names, scores, lists, coexpression, gene_table)
    with provenance.run(
        "evaluate genes",
        inputs=[*inputs, *(path for path in more if path is not None)],
        output=None if dry_run else to_file,
        parameters=plain_records(settings),
        seed=seed,
    ) as run:
        told = _renamer(gene_table)
        genes, tables = _tables([Path(path) for path in inputs], coexpression, layer, told, seed)
        settings |= {"genes": len(genes)}
        log.info("%d genes in common, embeddings: %s", len(genes), ", ".join(t.name for t in tables))
        place = {gene: i for i, gene in enumerate(genes.tolist())}
        result: dict[str, Any] = {"what": "genes", "settings": settings, "results": []}
        sets: list[tuple[str, Pairs, Pairs | None]] = []
        if gene_pairs is not None:
            given = _Given(gene_pairs, read_pairs(gene_pairs), place, told, seed)
            if test_pairs is None:
                sets.append((Path(gene_pairs).name, given.labelled(), None))
            else:
                asked = _Given(test_pairs, read_pairs(test_pairs), place, told, seed)
                drawn = asked.labelled(given.pairs)
                sets.append((Path(gene_pairs).name, given.labelled(drawn), drawn))
        if links is not None:
            read = read_links(links, protein_names, channel, positive_above)
            sets.append((Path(links).name, _Given(links, read, place, told, seed).labelled(), None))
        listed = _listed(lists, positive_list, negative_list, place, told)
        scored = _scored(scores, place, told)
        if dry_run:
            return result
        for name, known, test in sets:
            for split in pair_splits:
                result["results"] += _pair_task(name, known, test, split, tables, max_pairs, seed)
        if scored is not None and scores is not None:
            rows, values = scored
            for one in tables:
                entry = {"task": "regression", "data": Path(scores).name, "embedding": one.name}
                result["results"].append(entry | regress(one.table_gd[rows], values, seed))
        if listed is not None and lists is not None:
            rows, positive = listed
            for one in tables:
                entry = {"task": "lists", "data": f"{positive_list} against {negative_list}", "embedding": one.name}
                result["results"].append(entry | classify(one.table_gd[rows], positive, seed))
        for entry in result["results"]:
            log.info("%s", _line(entry))
        result["history"] = [run.record]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if plot is not None:
            publish(plot, force, "the scores", gene_bars, result["results"])
    return result


def _renamer(gene_table: Path | None) -> Callable[[str], str]:
    """What a gene is called here, whichever of its names an input has."""
    if gene_table is None:
        return str
    table = read_gene_table(gene_table)
    return lambda name: table.name(name, name)


def _renamed(
    path: str, genes: np.ndarray, table_gd: np.ndarray, told: Callable[[str], str]
) -> tuple[np.ndarray, np.ndarray]:
    """The genes of a table by their names here; those that share one are left out."""
    names = [told(gene) for gene in genes.tolist()]
    count = Counter(names)
    single = np.array([count[name] == 1 for name in names], dtype=bool)
    if not single.all():
        log.warning("%s: %d genes are left out, which by --gene-table are not one each", path, int((~single).sum()))
    return np.array(names, dtype=str)[single], table_gd[single]


def _tables(
    paths: Sequence[Path], coexpression: Path | None, layer: str | None, told: Callable[[str], str], seed: int
) -> tuple[np.ndarray, list[_Table]]:
    """The genes that all inputs have, sorted, and the embeddings of these, baselines included."""
    read: list[tuple[str, np.ndarray, np.ndarray]] = []
    for path in paths:
        if is_bundle(path):
            bundle = load_bundle(path)
            if "gene_gd" not in bundle.tensors:
                raise UsageError(f"{path} holds a model of type {bundle.config['model']}, which embeds no genes")
            read.append((path.name, bundle.features, bundle.tensors["gene_gd"]))
        else:
            read.append((path.name, *read_embedding(path)))
    if coexpression is not None:
        data = load_rna(coexpression, layer)
        width = min(read[0][2].shape[1], min(data.counts.shape) - 1)
        read.append(("co-expression SVD", data.genes, gene_svd(data.counts, width, seed=seed)))
    check_sources([name for name, _, _ in read])
    read = [(name, *_renamed(name, genes, table_gd, told)) for name, genes, table_gd in read]
    common = set(read[0][1].tolist()).intersection(*(set(genes.tolist()) for _, genes, _ in read[1:]))
    if len(common) < _FEWEST:
        raise InputError(f"the inputs have {len(common)} genes in common; at least {_FEWEST} are wanted", _REMEDY)
    genes = np.array(sorted(common), dtype=str)
    tables = []
    for name, own, table_gd in read:
        order = np.argsort(own)
        tables.append(_Table(name, table_gd[order[np.searchsorted(own[order], genes)]].astype(np.float32)))
    drawn = np.random.default_rng(seed).normal(size=tables[0].table_gd.shape).astype(np.float32)
    return genes, [*tables, _Table("random vectors", drawn)]


class _Given:
    """The pairs of a file whose genes are known, each once."""

    def __init__(
        self,
        path: Path,
        read: tuple[list[tuple[str, str]], np.ndarray | None],
        place: dict[str, int],
        told: Callable[[str], str],
        seed: int,
    ) -> None:
        names, related = read
        rows = np.array([[place.get(told(gene), -1) for gene in pair] for pair in names], dtype=np.int64).reshape(-1, 2)
        kept = (rows >= 0).all(axis=1) & (rows[:, 0] != rows[:, 1])
        rows = np.sort(rows[kept], axis=1)
        labels = np.ones(len(rows), dtype=bool) if related is None else related[kept]
        _, first = np.unique(rows[:, 0] * (len(place) + 1) + rows[:, 1], return_index=True)
        self.path, self.rng = path, np.random.default_rng(seed)
        first = np.sort(first)
        # Which gene of a pair comes first shall tell nothing.
        turned = self.rng.random(len(first)) < 0.5
        chosen = np.where(turned[:, None], rows[first][:, ::-1], rows[first])
        self.pairs, self.drawn = Pairs(chosen[:, 0], chosen[:, 1], labels[first]), related is None
        log.info("%s: %d of %d pairs have known genes", path, int(kept.sum()), len(names))

    def labelled(self, beside: Pairs | None = None) -> Pairs:
        """The pairs; where none are told to be unrelated, such are drawn that are not ``beside`` either."""
        pairs = draw_negatives(self.pairs, self.rng, beside) if self.drawn and len(self.pairs) else self.pairs
        if len(pairs) < _FEWEST or pairs.related.all() or not pairs.related.any():
            raise InputError(
                f"{self.path} has {len(pairs)} pairs of genes of the embeddings, {int(pairs.related.sum())} of them "
                "related",
                _REMEDY,
            )
        return pairs


def _sample(pairs: Pairs, most: int, seed: int) -> Pairs:
    """At most so many of the pairs, drawn at random; 0 takes all."""
    if not most or len(pairs) <= most:
        return pairs
    return pairs.take(np.sort(np.random.default_rng(seed).permutation(len(pairs))[:most]))


def _pair_task(
    name: str, known: Pairs, test: Pairs | None, split: str, tables: Sequence[_Table], most: int, seed: int
) -> list[dict[str, Any]]:
    if test is None:
        train_n, test_n = split_pairs(known, split, seed)
        train, unseen = known.take(train_n), known.take(test_n)
    else:
        train, unseen = known, test
        if split == "gene-disjoint":
            seen = np.unique(np.concatenate([test.first, test.second]))
            train = known.take(np.flatnonzero(~np.isin(known.first, seen) & ~np.isin(known.second, seen)))
    train, unseen = _sample(train, most, seed), _sample(unseen, most, seed)
    sizes = {"train": len(train), "test": len(unseen), "test_related": int(unseen.related.sum())}
    entry = {"task": "pairs", "data": name, "split": split, **sizes}
    if min(len(train), len(unseen)) < _FEWEST or any(len(np.unique(part.related)) < 2 for part in (train, unseen)):
        log.warning("%s: too few pairs are left by the %s split", name, split)
        return []
    found = []
    genes = int(max(part.max(initial=0) for part in (train.first, train.second, unseen.first, unseen.second))) + 1
    for one in tables:
        features = (
            pair_features(one.table_gd, train),
            train.related,
            pair_features(one.table_gd, unseen),
            unseen.related,
        )
        found.append(entry | {"embedding": one.name} | score_pairs(*features, seed))
    counted = degree_features(train, train, genes), train.related, degree_features(train, unseen, genes), unseen.related
    found.append(entry | {"embedding": "number of partners"} | score_pairs(*counted, seed))
    return found


def _listed(
    path: Path | None,
    positive: str | None,
    negative: str | None,
    place: dict[str, int],
    told: Callable[[str], str],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of the genes of two lists, and which are in the first; genes of both are left out."""
    if path is None or positive is None or negative is None:
        return None
    found = read_lists(path)
    for name in (positive, negative):
        if name not in found:
            raise InputError(f"{path} has no list {name!r}", f"lists: {', '.join(sorted(found)[:12])}")
    first, second = ({told(gene) for gene in found[name]} for name in (positive, negative))
    yes, no = first - second, second - first
    genes = sorted((yes | no) & place.keys())
    labels = np.array([gene in yes for gene in genes], dtype=bool)
    if min(labels.sum(), (~labels).sum()) < 10:
        raise InputError(
            f"{int(labels.sum())} genes of {positive} and {int((~labels).sum())} of {negative} have embeddings",
            "at least 10 of each are wanted",
        )
    return np.array([place[gene] for gene in genes]), labels


def _scored(
    path: Path | None, place: dict[str, int], told: Callable[[str], str]
) -> tuple[np.ndarray, np.ndarray] | None:
    if path is None:
        return None
    found: dict[str, float] = {}
    for name, value in read_scores(path).items():
        if found.setdefault(told(name), value) != value:
            raise InputError(f"{path}: {told(name)} has two scores, one of them by the name {name}")
    genes = sorted(found.keys() & place.keys())
    if len(genes) < _FEWEST:
        raise InputError(f"{len(genes)} genes of {path} have embeddings; at least {_FEWEST} are wanted", _REMEDY)
    return np.array([place[gene] for gene in genes]), np.array([found[gene] for gene in genes])


def _line(entry: dict[str, Any]) -> str:
    head = f"{entry['task']}, {entry['data']}{', ' + entry['split'] if 'split' in entry else ''}: {entry['embedding']}"
    return f"{head}: " + (f"Pearson {entry['pearson']:.3f}" if "pearson" in entry else f"AUC {entry['auc']:.3f}")
