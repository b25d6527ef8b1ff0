"""Rows of a CSR matrix as flat positions and values, and their transpose: compiled passes for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from scmap_cli.runtime.compiled import compiled


@compiled
def gather_rows(indptr: Any, indices: Any, values: Any, rows: Any, g: int, flat_m: Any, value_m: Any) -> None:
    """Write the stored entries of ``rows`` one after the other.

    Parameters
    ----------
    indptr, indices, values
        The CSR arrays.
    rows
        Row numbers, in any order, repeats allowed.
    g
        Columns of the matrix.
    flat_m, value_m
        Filled with ``place in rows * g + column`` (int64) and the values in the dtype of ``value_m``; their
        length is the number of entries of all rows.
    """
    m = 0
    for place in range(len(rows)):
        base = np.int64(place) * g
        for stored in range(indptr[rows[place]], indptr[rows[place] + 1]):
            flat_m[m] = base + indices[stored]
            value_m[m] = values[stored]
            m += 1


@compiled
def by_column(flat_m: Any, value_m: Any, g: int, ccol_g: Any, row_m: Any, sorted_m: Any) -> None:
    """Order entries by column, then row: a counting sort.

    Parameters
    ----------
    flat_m, value_m
        Positions ``row * g + column``, ordered by row, and the values there.
    g
        Columns.
    ccol_g
        Filled with where each column starts in ``row_m``, int64 (g + 1,).
    row_m, sorted_m
        Filled with the rows (int64) and the values.
    """
    ccol_g[:] = 0
    for m in range(len(flat_m)):
        ccol_g[flat_m[m] % g + 1] += 1
    for j in range(g):
        ccol_g[j + 1] += ccol_g[j]
    place_g = ccol_g[:-1].copy()
    for m in range(len(flat_m)):
        column = flat_m[m] % g
        row_m[place_g[column]] = flat_m[m] // g
        sorted_m[place_g[column]] = value_m[m]
        place_g[column] += 1


@compiled
def take_rows(edges: Any, gene: Any, count: Any, rows: Any, gene_t: Any, count_t: Any) -> None:
    """Write genes and counts of ``rows`` one after the other.

    Parameters
    ----------
    edges, gene, count
        Where each row begins and ends, and the entries of all.
    rows
        Row numbers, in any order, repeats allowed.
    gene_t, count_t
        Filled; their length is the number of entries of ``rows``.
    """
    t = 0
    for row in rows:
        for stored in range(edges[row], edges[row + 1]):
            gene_t[t] = gene[stored]
            count_t[t] = count[stored]
            t += 1


@compiled
def recode(column: Any, value: Any, length: Any, code: Any, most: int, gene_m: Any, count_m: Any, sums: Any) -> tuple:
    """Entries of rows by another numbering of their columns; those without a number are left out.

    Parameters
    ----------
    column, value, length
        Columns and counts of rows one after the other, and the number of entries of each.
    code
        New number of each column, or -1.
    most
        Larger counts are cut to this.
    gene_m, count_m
        Filled from the start, as long as ``column``.
    sums
        (2, n) int64, filled with the entries and the counts left of each row.

    Returns
    -------
    tuple
        Entries written, counts cut, and whether the new numbers rise within every row.
    """
    stored, written, cut, rising = 0, 0, 0, True
    for row in range(len(length)):
        last = np.int64(-1)
        first = written
        total = np.int64(0)
        for _ in range(length[row]):
            number = code[column[stored]]
            if number >= 0:
                found = np.int64(value[stored])
                if found > most:
                    found = np.int64(most)
                    cut += 1
                gene_m[written] = number
                count_m[written] = found
                total += found
                rising = rising and number > last
                last = np.int64(number)
                written += 1
            stored += 1
        sums[0, row] = written - first
        sums[1, row] = total
    return written, cut, rising
