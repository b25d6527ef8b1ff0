"""Synthetic cells of any number, written as h5ad block by block, and gene programs for them as GMT.

    python synthetic.py cells.h5ad --cells 1000000 --gmt programs.gmt

Each cell has a type and a batch; each type has a few programs switched on, which raises the rate of their genes; each
batch shifts every gene a little; depth is log-normal around the value that fills ``--density`` of the matrix. Counts
are one multinomial draw of a cell's depth over its genes. It is made for timing and memory, not for judging models.
Memory is that of one block. The same arguments give the same counts: every block has a random stream of its own.
Only numpy and h5py are imported.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np

#: log fold change of a gene per active program, sd of the batch shift, sd of log depth, sd of log gene rate
ACTIVE_SHIFT, BATCH_SD, DEPTH_SD, RATE_SD = 1.0, 0.2, 0.4, 1.3

N_TYPES, ACTIVE_PROGRAMS = 12, 30


def gene_names(n_genes: int) -> np.ndarray:
    """Names GENE00001 and on."""
    return np.array([f"GENE{index + 1:05d}" for index in range(n_genes)])


def draw_programs(n_genes: int, n_programs: int, genes_per_program: int, seed: int) -> np.ndarray:
    """0/1 mask, programs x genes, uint8: each program a random set of genes around the wanted size."""
    rng = np.random.default_rng([seed, 1])
    mask_kg = np.zeros((n_programs, n_genes), dtype=np.uint8)
    for program in mask_kg:
        size = int(np.clip(rng.poisson(genes_per_program), min(13, n_genes), n_genes))
        program[rng.choice(n_genes, size, replace=False)] = 1
    return mask_kg


def group_rates(mask_kg: np.ndarray, n_batches: int, seed: int) -> np.ndarray:
    """Share of each gene in the counts of each type in each batch: (types x batches) x genes, rows sum to 1."""
    rng = np.random.default_rng([seed, 2])
    n_programs, n_genes = mask_kg.shape
    base = rng.normal(0, RATE_SD, n_genes)
    shift = rng.normal(0, BATCH_SD, (n_batches, n_genes))
    log_rates = []
    for _ in range(N_TYPES):
        active = rng.choice(n_programs, min(ACTIVE_PROGRAMS, n_programs), replace=False)
        raised = np.minimum(mask_kg[active].sum(0), 2) * ACTIVE_SHIFT
        log_rates.extend(base + raised + shift)
    rates = np.exp(np.array(log_rates))
    return rates / rates.sum(1, keepdims=True)


def depth_for(rates: np.ndarray, density: float) -> float:
    """Median depth at which the expected share of non-zero entries is ``density``, by bisection."""
    spread = np.exp(DEPTH_SD * np.array([-1.5, -0.75, 0.0, 0.75, 1.5]))
    low, high = 1.0, 1e6
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        filled = np.mean([1 - np.exp(-middle * factor * rates).mean() for factor in spread])
        low, high = (middle, high) if filled < density else (low, middle)
    return low


def draw_block(rates: np.ndarray, depth: float, n_cells: int, stream: list[int]) -> tuple[np.ndarray, ...]:
    """One block of cells.

    Returns
    -------
    values, columns, row_lengths, groups
        CSR data (float32 counts), int32 gene indices, int64 entries a cell, int64 row of ``rates`` of each cell.
    """
    rng = np.random.default_rng(stream)
    n_groups, n_genes = rates.shape
    groups = np.sort(rng.integers(n_groups, size=n_cells))
    depths = rng.poisson(depth * np.exp(rng.normal(0, DEPTH_SD, n_cells))) + 1
    counts = np.zeros((n_cells, n_genes), dtype=np.int32)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        cells = np.repeat(np.arange(len(rows)), depths[rows])
        cumulative = np.cumsum(rates[group])
        genes = np.searchsorted(cumulative, rng.random(len(cells)) * cumulative[-1], side="right")
        keys = cells * n_genes + np.minimum(genes, n_genes - 1)
        counts[rows] = np.bincount(keys, minlength=len(rows) * n_genes).reshape(len(rows), n_genes)
    order = rng.permutation(n_cells)
    counts, groups = counts[order], groups[order]
    filled = counts != 0
    columns = np.nonzero(filled)[1].astype(np.int32)
    return counts[filled].astype(np.float32), columns, filled.sum(1, dtype=np.int64), groups


def _encode(node: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = kind, version


def _strings(group: h5py.Group, name: str, values: np.ndarray) -> None:
    _encode(group.create_dataset(name, data=values.astype(object), dtype=h5py.string_dtype()), "string-array", "0.2.0")


def _frame(root: h5py.File, name: str, index: np.ndarray, columns: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    frame = root.create_group(name)
    _encode(frame, "dataframe", "0.2.0")
    frame.attrs["_index"] = "_index"
    frame.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())
    _strings(frame, "_index", index)
    for column, (codes, categories) in columns.items():
        node = frame.create_group(column)
        _encode(node, "categorical", "0.2.0")
        node.attrs["ordered"] = False
        _encode(node.create_dataset("codes", data=codes.astype(np.int8)), "array", "0.2.0")
        _strings(node, "categories", categories)


def write_cells(
    path: Path, mask_kg: np.ndarray, *, n_cells: int, n_batches: int, density: float, seed: int, block: int
) -> int:
    """Write the h5ad (X CSR float32 counts; obs batch, cell_type); return the number of stored entries."""
    n_genes = mask_kg.shape[1]
    rates = group_rates(mask_kg, n_batches, seed)
    depth = depth_for(rates, density)
    groups, lengths = [], []
    with h5py.File(path, "w") as root:
        _encode(root, "anndata", "0.1.0")
        matrix = root.create_group("X")
        _encode(matrix, "csr_matrix", "0.1.0")
        matrix.attrs["shape"] = np.array([n_cells, n_genes], dtype=np.int64)
        stored = {
            name: matrix.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(1 << 18,), dtype=dtype)
            for name, dtype in (("data", np.float32), ("indices", np.int32))
        }
        for number, start in enumerate(range(0, n_cells, block)):
            values, columns, entries, group = draw_block(rates, depth, min(block, n_cells - start), [seed, 3, number])
            for name, part in (("data", values), ("indices", columns)):
                dataset = stored[name]
                dataset.resize(dataset.shape[0] + len(part), axis=0)
                dataset[-len(part) :] = part
            groups.append(group)
            lengths.append(entries)
        indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        matrix.create_dataset("indptr", data=indptr)
        group = np.concatenate(groups)
        batches = np.array([f"batch{index + 1}" for index in range(n_batches)])
        types = np.array([f"type{index + 1:02d}" for index in range(N_TYPES)])
        names = np.array([f"cell{index + 1:07d}" for index in range(n_cells)])
        _frame(root, "obs", names, {"batch": (group % n_batches, batches), "cell_type": (group // n_batches, types)})
        _frame(root, "var", gene_names(n_genes), {})
        for name in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            _encode(root.create_group(name), "dict", "0.1.0")
    return int(indptr[-1])


def write_gmt(path: Path, mask_kg: np.ndarray) -> None:
    """Write the programs as GMT."""
    genes = gene_names(mask_kg.shape[1])
    lines = [
        "\t".join([f"PROGRAM_{number + 1:03d}", "synthetic", *genes[np.flatnonzero(program)]])
        for number, program in enumerate(mask_kg)
    ]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="h5ad to write")
    parser.add_argument("--gmt", type=Path, help="GMT to write the programs to")
    parser.add_argument("--cells", type=int, default=6512)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--genes-per-program", type=int, default=25)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--density", type=float, default=0.08, help="share of non-zero entries")
    parser.add_argument("--block", type=int, default=4096, help="cells drawn at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    mask_kg = draw_programs(args.genes, args.programs, args.genes_per_program, args.seed)
    write_cells(
        args.output,
        mask_kg,
        n_cells=args.cells,
        n_batches=args.batches,
        density=args.density,
        seed=args.seed,
        block=args.block,
    )
    if args.gmt:
        write_gmt(args.gmt, mask_kg)


if __name__ == "__main__":
    main()
