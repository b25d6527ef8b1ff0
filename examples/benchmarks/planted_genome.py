"""A genome for peaks whose sequence is not at hand: random letters, and motifs where two types of cells differ.

    python examples/benchmarks/planted_genome.py atac.h5ad --label-key cell_type --types Pvalb L4 \
        --motifs jaspar.txt -o planted.fa.gz
    scmap preprocess motifs atac.h5ad --genome planted.fa.gz --motifs jaspar.txt -o motifs.h5ad

The tenth of the peaks that is most open in the first type beside the second gets sites of ``--count`` motifs, the tenth
at the other end those of as many others; as many again, the decoys, go to peaks drawn without regard to the types. Each
such peak holds each of its motifs with a chance of one half, as a site drawn from the motif's shares. Motifs are drawn
among the sharper half of the file, without two of one beginning of the name (a family), and told in the JSON beside the
genome. Peaks have a GC content of .35 to .65; all else is N, so that the file is small.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata
import numpy as np
import pysam
from measure import say

from scmap_cli.data.peaks import peak_positions
from scmap_cli.io.jaspar import BASES, Motif, read_jaspar

SHARE, CHANCE = 0.1, 0.5


def chosen(motifs: list[Motif], count: int, rng: np.random.Generator) -> list[Motif]:
    """Sharp motifs of different families."""
    bits = []
    for motif in motifs:
        share_l4 = motif.counts_l4 / motif.counts_l4.sum(1, keepdims=True)
        bits.append(float((2 + (share_l4 * np.log2(np.maximum(share_l4, 1e-9))).sum(1)).sum()))
    sharp = [motifs[i] for i in np.flatnonzero(bits >= np.median(bits))]
    found: dict[str, Motif] = {}
    for i in rng.permutation(len(sharp)):
        found.setdefault(sharp[i].name[:3].upper(), sharp[i])
    return list(found.values())[:count]


def difference(adata: anndata.AnnData, label_key: str, types: list[str]) -> np.ndarray:
    """(P,) log ratio of the shares of both types' counts in a peak."""
    label = adata.obs[label_key].astype(str)
    sums = [np.asarray(adata.X[(label == name).to_numpy()].sum(0, dtype=np.float64)).ravel() + 1.0 for name in types]
    ratio: np.ndarray = np.log(sums[0] / sums[0].sum()) - np.log(sums[1] / sums[1].sum())
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atac", type=Path, help="h5ad of counts of peaks")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--types", nargs=2, metavar="LABEL", required=True)
    parser.add_argument("--motifs", type=Path, required=True, help="JASPAR file")
    parser.add_argument("--count", type=int, default=3, help="motifs of each type, and decoys")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="bgzip FASTA; FILE.json says what was planted")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    adata = anndata.read_h5ad(args.atac)
    peaks = peak_positions(adata.var)
    order = np.argsort(difference(adata, args.label_key, args.types), kind="stable")
    motifs = chosen(read_jaspar(args.motifs), 3 * args.count, rng)
    if len(motifs) < 3 * args.count:
        parser.error(f"{args.motifs} has {len(motifs)} families of sharp motifs for --count {args.count}")
    some = max(1, round(SHARE * len(order)))
    groups = {args.types[0]: order[-some:], args.types[1]: order[:some], "decoy": rng.permutation(order)[:some]}
    planted: dict[int, list[Motif]] = {}
    told: dict[str, list[str]] = {}
    for place, (name, of_group) in enumerate(groups.items()):
        told[name] = [motif.label for motif in motifs[place * args.count : (place + 1) * args.count]]
        for motif in motifs[place * args.count : (place + 1) * args.count]:
            for peak in of_group[rng.random(some) < CHANCE]:
                planted.setdefault(int(peak), []).append(motif)
    letters = np.frombuffer(BASES.encode(), dtype=np.uint8)
    plain = args.output.with_suffix(".part")
    with plain.open("wb") as handle:
        for chrom in dict.fromkeys(peaks.chrom.tolist()):
            on = np.flatnonzero(peaks.chrom == chrom)
            sequence = np.full(int(peaks.end[on].max()), ord("N"), dtype=np.uint8)
            for p in on:
                start, length = int(peaks.start[p]), int(peaks.end[p] - peaks.start[p])
                gc = rng.uniform(0.35, 0.65)
                codes = rng.choice(4, length, p=[(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2])
                for motif in planted.get(int(p), []):
                    share_l4 = motif.counts_l4 / motif.counts_l4.sum(1, keepdims=True)
                    if length > len(share_l4):
                        at = int(rng.integers(length - len(share_l4)))
                        codes[at : at + len(share_l4)] = [rng.choice(4, p=share) for share in share_l4]
                sequence[start : start + length] = letters[codes]
            whole = np.full(-(-len(sequence) // 100) * 100, ord("N"), dtype=np.uint8)
            whole[: len(sequence)] = sequence
            lines = np.concatenate([whole.reshape(-1, 100), np.full((len(whole) // 100, 1), ord("\n"), np.uint8)], 1)
            handle.write(f">{chrom}\n".encode() + lines.tobytes())
    pysam.tabix_compress(str(plain), str(args.output), force=True)
    plain.unlink()
    pysam.faidx(str(args.output))
    Path(f"{args.output}.json").write_text(json.dumps(told, indent=1) + "\n")
    say(json.dumps(told))


if __name__ == "__main__":
    main()
