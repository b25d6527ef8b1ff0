r"""What gene-set tests rank first where ``scmap gp-test`` ranks programs: the same cells, genes, programs and contrast.

    python examples/benchmarks/gene_set_tests.py mapped-0:query-0.h5ad mapped-1:query-1.h5ad \
        --contrast condition=stim:ctrl --sought INTERFERON \
        --contrast cell_type=B:rest --sought 'B_CELL|ANTIGEN' -o sets.json

Each ``MODEL:CELLS`` is a model and cells whose batches it knows, such as what ``scmap map-query`` wrote; several are
several seeds. Methods, each ranking all programs by the size of its statistic:

gp-test      log Bayes factor of the active programs, one row a model
fry, camera  ``scmap gp-test --gene-set-test``: log counts and a linear model, no expiMap; the same for every model
ulm          decoupler's, on the genes' t statistics of that linear model; left out where decoupler is not installed

``found at`` is the rank of the first program whose name fits the regular expression of ``--sought``, ``passing`` counts
programs of \|log BF\| >= 2.3 or of a false discovery rate below 0.05, and ``genes`` is the median size of the five
first: general programs are large.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import flags, measured, say
from scipy import sparse

from scmap_cli.data.matrices import cell_totals, log1p_cp10k
from scmap_cli.io.bundle import load_bundle
from scmap_cli.metrics.gene_sets import group_effects

#: programs that a row is described by
FIRST = 5


def contrast_of(text: str) -> dict[str, str]:
    """``COLUMN=GROUP:AGAINST`` as options of gp-test."""
    column, _, groups = text.partition("=")
    group, _, against = groups.partition(":")
    return {"groupby": column, "group": group, "against": against}


def tested(args: argparse.Namespace, model: str, cells: str, contrast: dict[str, str]) -> list[dict[str, str]]:
    """The table of gp-test with the gene-set tests."""
    words = flags(o="-", gene_set_test="fry,camera", seed=0, threads=args.threads, quiet=True, **contrast)
    done = measured([*measure.scmap_command(args.scmap), "gp-test", model, cells, *words], args.threads)
    return list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))


def ranking(rows: list[dict[str, str]], column: str, passes: Any) -> dict[str, Any]:
    """Programs by the size of a statistic, and which pass."""
    known = [row for row in rows if row[column]]
    ordered = sorted(known, key=lambda row: -abs(float(row[column])))
    return {
        "programs": [row["program"] for row in ordered],
        "statistic": [float(row[column]) for row in ordered],
        "passing": sum(bool(passes(row)) for row in known),
    }


def by_decoupler(model: Path, cells: Path, contrast: dict[str, str]) -> dict[str, Any] | None:
    """Decoupler's univariate linear model on t statistics of the genes of the model."""
    try:
        import decoupler
    except ImportError:
        return None
    import pandas as pd

    bundle = load_bundle(model)
    adata = anndata.read_h5ad(cells)
    groups = adata.obs[contrast["groupby"]].astype(str).to_numpy()
    inside = groups == contrast["group"]
    kept = np.full(len(groups), True) if contrast["against"] == "rest" else inside | (groups == contrast["against"])
    counts = sparse.csr_matrix(adata.X)
    values = log1p_cp10k(counts, totals=cell_totals(counts))[kept][:, adata.var_names.get_indexer(bundle.features)]
    batch = adata.obs["scmap_batch"].astype(str).to_numpy()[kept]
    t = group_effects(values, inside[kept], batch).t
    data = pd.DataFrame(np.nan_to_num(t)[None], index=["contrast"], columns=bundle.features)
    gene, program = bundle.tensors["blocks.0.pattern.gene_e"], bundle.tensors["blocks.0.pattern.program_e"]
    names = np.asarray(bundle.categories["latent"])
    net = pd.DataFrame({"source": names[program], "target": bundle.features[gene], "weight": 1.0})
    score, fdr = decoupler.mt.ulm(data, net, tmin=1, verbose=False)
    order = np.argsort(-np.abs(score.to_numpy()[0]), kind="stable")
    return {
        "method": "decoupler ulm",
        "programs": score.columns[order].tolist(),
        "statistic": score.to_numpy()[0, order].tolist(),
        "passing": int((fdr.to_numpy()[0] < 0.05).sum()),
    }


def compare(args: argparse.Namespace, contrast: dict[str, str], sought: str) -> list[dict[str, Any]]:
    """Every method on one contrast."""
    results: list[dict[str, Any]] = []
    for number, pair in enumerate(args.pairs):
        model, _, cells = pair.rpartition(":")
        rows = tested(args, model, cells, contrast)
        results.append({"method": f"gp-test {number}"} | ranking(rows, "log_bf", lambda row: row["passes"] == "1"))
        if number:
            continue
        for name in ("fry", "camera"):
            fdr = f"{name}_fdr"
            found = ranking(rows, f"{name}_statistic", lambda row, fdr=fdr: float(row[fdr]) < 0.05)
            results.append({"method": name} | found)
        peer = by_decoupler(Path(model), Path(cells), contrast)
        results += [peer] if peer else []
        with (Path(model) / "programs.tsv").open(newline="") as handle:
            sizes = {row["program"]: int(row["size"]) for row in csv.DictReader(handle, delimiter="\t")}
    for found in results:
        ranks = [rank for rank, name in enumerate(found["programs"], 1) if re.search(sought, name)]
        found["found_at"] = ranks[0] if ranks else None
        found["median_size"] = float(np.median([sizes[name] for name in found["programs"][:FIRST]]))
    return sorted(results, key=lambda found: not found["method"].startswith("gp-test"))


def main() -> None:
    """Run every contrast and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="MODEL:CELLS")
    parser.add_argument("--contrast", action="append", required=True, metavar="COLUMN=GROUP:AGAINST")
    parser.add_argument("--sought", action="append", required=True, help="regular expression, one for each contrast")
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    if len(args.contrast) != len(args.sought):
        parser.error("give one --sought for each --contrast")
    results: dict[str, Any] = {}
    for text, sought in zip(args.contrast, args.sought, strict=True):
        results[text] = compare(args, contrast_of(text), sought)
        rows = []
        for found in results[text]:
            first = zip(found["programs"][:3], found["statistic"][:3], strict=True)
            leads = ", ".join(f"{name} {value:+.1f}" for name, value in first)
            place = str(found["found_at"] or "-")
            rows.append([found["method"], place, str(found["passing"]), f"{found['median_size']:g}", leads])
        say(f"\n{text}, sought {sought}")
        say(measure.table(["", "found at", "passing", "genes", "first three"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "gene_set_tests",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata", "scipy", "decoupler"),
        },
    )


if __name__ == "__main__":
    main()
