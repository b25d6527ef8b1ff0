r"""Which peaks hold a motif: log-odds scores, a threshold by p-value, and a scan of both strands.

A place of a motif scores a base by :math:`\log\frac{(c_b + s\,f_b)/(\sum c + s)}{f_b}` with counts :math:`c`,
pseudocount :math:`s` and background frequencies :math:`f`; a site scores their sum. The threshold is the smallest score
that a random site of the background reaches with at most the given probability, by the exact distribution of the scores
(Staden 1989; MOODS, Korhonen et al. 2009, doi:10.1093/bioinformatics/btp554, and with it motifmatchr, do the same).
Scores are whole numbers of a thousandth nat, in the distribution and in the scan alike, so that rounding cannot come
between the two. Background frequencies are those of both strands together, which makes one threshold right for both.

The scan looks up the part of a site that tells most, as one number of seven bases, in a table of those that can reach
the threshold at all, and adds up only the few sites that remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.runtime.compiled import compiled
from scmap_cli.runtime.logs import progress

UNITS = 1000
"""Units of a score in a nat."""

EVEN = np.full(4, 0.25)
"""Frequencies of A, C, G and T that are all alike."""

_WORD = 7
_WORDS = 4**_WORD
# No site with an unknown base matches: this is below what all others can make up for.
_NEVER = -(1 << 24)


def frequencies_of(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Frequencies of A, C, G and T on both strands together, (4,) float64.

    Parameters
    ----------
    codes
        Sequences as :func:`scmap_cli.io.fasta.read_regions` gives them.
    """
    count_4 = sum((np.bincount(code, minlength=5)[:4] for code in codes), np.zeros(4, dtype=np.int64))
    # One more of each, as a base that is nowhere would have no log-odds.
    both_4 = count_4 + count_4[::-1] + 1.0
    return np.asarray(both_4 / both_4.sum())


def gc_content(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Share of G and C among the known bases of each sequence, (P,) float64, NaN where none is known."""
    count_p5 = np.array([np.bincount(code, minlength=5) for code in codes], dtype=np.float64).reshape(-1, 5)
    known_p = count_p5[:, :4].sum(1)
    return np.divide(count_p5[:, 1:3].sum(1), known_p, out=np.full(len(known_p), np.nan), where=known_p > 0)


def log_odds(counts_l4: np.ndarray, background_4: np.ndarray, pseudocount: float) -> np.ndarray:
    """Scores of the bases at each place, int64 (length, 4) in :data:`UNITS` a nat.

    Parameters
    ----------
    counts_l4
        Counts of A, C, G, T.
    background_4
        Their frequencies elsewhere, all above 0.
    pseudocount
        Added to the counts of a place, shared out by the background; above 0.
    """
    share_l4 = (counts_l4 + pseudocount * background_4) / (counts_l4.sum(1, keepdims=True) + pseudocount)
    return np.rint(UNITS * np.log(share_l4 / background_4)).astype(np.int64)


def score_threshold(score_l4: np.ndarray, background_4: np.ndarray, p_value: float) -> tuple[int, bool]:
    """The smallest score that a random site reaches with a chance of at most ``p_value``, and whether there is one.

    Even the best sites of a motif may not be so rare, as it is too short or too vague. Their score is the threshold
    then, as in MOODS.
    """
    chance_s = np.ones(1)
    for row in score_l4 - score_l4.min(1, keepdims=True):
        wider_s = np.zeros(len(chance_s) + int(row.max()))
        for shift, frequency in zip(row.tolist(), background_4.tolist(), strict=True):
            wider_s[shift : shift + len(chance_s)] += frequency * chance_s
        chance_s = wider_s
    tail_s = np.cumsum(chance_s[::-1])[::-1]
    # Sums of equal chances must not fail a limit that they meet exactly.
    common = int(np.count_nonzero(tail_s > p_value * (1 + 1e-9)))
    return min(common, len(tail_s) - 1) + int(score_l4.min(1).sum()), common < len(tail_s)


def match_motifs(
    codes: Sequence[np.ndarray],
    motifs: Sequence[np.ndarray],
    background_4: np.ndarray,
    *,
    p_value: float = 5e-5,
    pseudocount: float = 0.8,
    threads: int = 1,
) -> tuple[sparse.csc_matrix, np.ndarray, np.ndarray]:
    """Which sequences hold a site of each motif on either strand.

    Parameters
    ----------
    codes
        Sequences as :func:`scmap_cli.io.fasta.read_regions` gives them.
    motifs
        Counts of each motif, (length, 4).
    background_4, p_value, pseudocount
        See the top of this file; the p-value is that of one site on one strand.
    threads
        Motifs scanned at once; the result is the same for any number.

    Returns
    -------
    csc_matrix, ndarray, ndarray
        (P, k) float64 of 0 and 1; the threshold of each motif in nats; whether a site above it is as rare as asked for.
    """
    edge_p = np.concatenate([[0], np.cumsum([len(code) for code in codes])]).astype(np.int64)
    code_m = np.concatenate([*codes, np.zeros(0, dtype=np.uint8)])
    word_m = np.empty(len(code_m), dtype=np.uint16)
    _words(code_m, _WORD, word_m)
    limit_k, rare_k = np.empty(len(motifs), dtype=np.int64), np.empty(len(motifs), dtype=np.bool_)

    def one(number: int) -> np.ndarray:
        score_l4 = log_odds(motifs[number], background_4, pseudocount)
        limit_k[number], rare_k[number] = limit, _ = score_threshold(score_l4, background_4, p_value)
        hit_p = np.zeros(len(codes), dtype=np.bool_)
        # The other strand reads the complement backwards.
        for strand_l4 in (score_l4, score_l4[::-1, ::-1]):
            _scan(code_m, word_m, edge_p, *_prepared(strand_l4, limit), limit, hit_p)
        return np.flatnonzero(hit_p)

    with ThreadPoolExecutor(threads) as pool, progress("motif", len(motifs)) as bar:
        places = []
        for place in pool.map(one, range(len(motifs))):
            places.append(place)
            bar.advance(1)
    indptr = np.concatenate([[0], np.cumsum([len(place) for place in places])])
    indices = np.concatenate([*places, np.zeros(0, dtype=np.int64)])
    found = sparse.csc_matrix((np.ones(len(indices)), indices, indptr), shape=(len(codes), len(motifs)))
    return found, limit_k / UNITS, rare_k


def _prepared(score_l4: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores with a column for unknown bases; which words may be part of a match; where in a site they stand.

    A motif shorter than a word has no such table: it is empty then.
    """
    length = len(score_l4)
    score_l5 = np.concatenate([score_l4, np.full((length, 1), _NEVER)], axis=1)
    if length < _WORD:
        return score_l5, np.zeros(0, dtype=np.bool_), 0
    best_l = score_l4.max(1)
    gain_l = best_l - score_l4.mean(1)
    first = int(np.argmax(np.convolve(gain_l, np.ones(_WORD), mode="valid")))
    total_w = np.zeros(1, dtype=np.int64)
    for row in score_l4[first : first + _WORD]:
        total_w = (total_w[:, None] + row).ravel()
    rest = best_l.sum() - best_l[first : first + _WORD].sum()
    return score_l5, np.append(total_w + rest >= limit, False), first


@compiled
def _words(code_m: Any, length: int, word_m: Any) -> None:
    """Number of the bases from each position on, four to the power of ``length`` where one of them is unknown."""
    mask = (1 << (2 * length)) - 1
    known, word = 0, 0
    for i in range(len(code_m)):
        if code_m[i] > 3:
            known, word = 0, 0
        else:
            known += 1
            word = ((word << 2) | code_m[i]) & mask
        if i >= length - 1:
            word_m[i - length + 1] = word if known >= length else mask + 1
    for i in range(max(0, len(code_m) - length + 1), len(code_m)):
        word_m[i] = mask + 1


@compiled
def _scan(code_m: Any, word_m: Any, edge_p: Any, score_l5: Any, may_w: Any, core: int, limit: int, hit_p: Any) -> None:
    """Set ``hit_p`` for the sequences with a site that scores at least ``limit``."""
    length = len(score_l5)
    for p in range(len(edge_p) - 1):
        if hit_p[p]:
            continue
        for i in range(edge_p[p], edge_p[p + 1] - length + 1):
            if len(may_w) and not may_w[word_m[i + core]]:
                continue
            total = 0
            for j in range(length):
                total += score_l5[j, code_m[i + j]]
            if total >= limit:
                hit_p[p] = True
                break
