"""Draw what the three counting rules of ``scmap preprocess atac`` count.

    python examples/counting_rules.py examples/counting_rules.svg

The numbers in the picture are not typed in: they come from the code that counts.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import anndata
import matplotlib

from scmap_cli.data.counting import RULES
from scmap_cli.stages.preprocess_atac import preprocess_atac

PEAKS = [(200, 420), (560, 640)]
FRAGMENTS = {
    "both cuts inside": (240, 380),
    "one cut inside": (90, 300),
    "spans a whole peak": (500, 720),
    "a cut in each of two": (360, 600),
    "outside": (30, 150),
}
COLOURS = ("#0072B2", "#E69F00")


def counts() -> dict[str, list[list[int]]]:
    """Counts of each fragment (as a cell of its own) in each peak, by rule."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        rows = [f"chr1\t{start}\t{end}\tcell{i}\n" for i, (start, end) in enumerate(FRAGMENTS.values())]
        (here / "fragments.tsv").write_text("".join(rows))
        (here / "peaks.bed").write_text("".join(f"chr1\t{start}\t{end}\n" for start, end in PEAKS))
        found = {}
        for rule in RULES:
            output = here / f"{rule}.h5ad"
            preprocess_atac([here / "fragments.tsv"], output, peaks=here / "peaks.bed", count=rule, min_fragments=1)
            found[rule] = anndata.read_h5ad(output).X.toarray().tolist()
        return found


def main() -> None:
    """Draw."""
    from matplotlib.figure import Figure

    found = counts()
    # The same bytes each time: no date, and names of parts that do not change.
    matplotlib.rcParams["svg.hashsalt"] = "scmap"
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots()
    for number, (start, end) in enumerate(PEAKS):
        axes.axvspan(start, end, color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.text((start + end) / 2, 0.75, f"peak {number + 1}", ha="center", fontsize=9, color=COLOURS[0])
    columns = [840 + 165 * i for i in range(len(RULES))]
    for place, rule in zip(columns, RULES, strict=True):
        axes.text(place, 0.75, rule, ha="center", fontsize=9)
    for i, (label, (start, end)) in enumerate(FRAGMENTS.items()):
        level = -i
        axes.plot([start, end], [level, level], color="0.35", linewidth=4, solid_capstyle="butt")
        axes.plot([start, end], [level, level], linestyle="", marker="v", color=COLOURS[1], markersize=7)
        axes.text(-10, level, label, ha="right", va="center", fontsize=9)
        for place, rule in zip(columns, RULES, strict=True):
            axes.text(place, level, "  ".join(map(str, found[rule][i])), ha="center", va="center", fontsize=10)
    axes.text(columns[1], -len(FRAGMENTS) + 0.25, "counts in peak 1 and peak 2", ha="center", fontsize=8, color="0.4")
    axes.plot([], [], color="0.35", linewidth=4, label="fragment")
    axes.plot([], [], linestyle="", marker="v", color=COLOURS[1], label="cut")
    axes.legend(frameon=False, fontsize=8, loc="lower left", ncols=2, bbox_to_anchor=(0.18, -0.08))
    axes.set_xlim(-190, columns[-1] + 70)
    axes.set_ylim(-len(FRAGMENTS) + 0.1, 1.05)
    axes.axis("off")
    figure.savefig(sys.argv[1], bbox_inches="tight", dpi=150, metadata={"Date": None})


if __name__ == "__main__":
    main()
