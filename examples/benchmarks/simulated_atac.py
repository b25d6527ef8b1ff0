"""The thesis's three simulations: what SAILER's embedding tells of depth and batch, and how good its imputation is.

    python examples/benchmarks/simulated_atac.py --n-peaks 20000 --depth-share 0.5 --work-dir sims -o sims.json
    python examples/benchmarks/simulated_atac.py --bulk bulk.tsv.gz --n-peaks 10000 --depth-share 0.1 \
        --peakvi-python scvi-env/bin/python --magic-python magic-env/bin/python --work-dir sims -o sims.json

Every run is the command line with its shipped defaults: ``simulate atac --preset``, ``train sailer``, ``embed``,
``impute``, ``evaluate``. LSI has the thesis's 10 dimensions, with and without its first component. Mutual
information is in nats, the mean over the dimensions; ARI and NMI are at the number of clusters nearest to that of the
types. F1 of a rare type is that of the Leiden cluster (``embed --cluster leiden`` at its default resolution) that fits
the type best, and the lowest of the rare types is told; one resolution favours embeddings that fall into many clusters,
so beside it stands the fewest clusters, over the resolutions of ``evaluate clustering`` and 15 neighbours, at which the
F1 is 0.8 or more. Dice scores are means over the cells against the binary profile of the cell's type. ``soft`` takes
imputed values as they are; ``cell`` and ``scale`` (SCALE's rule) are those of ``impute --binarize``; ``best`` is the
one threshold that fits the truth best, a limit that no rule knows.

With ``--mixture``, ``mixture VAE`` is a small model of SCALE's kind (``peer_scale.py``), told the number of types. LSI
with Harmony on the batches and PeakVI are of ``sim3`` alone, MAGIC is of every simulation (see ``peer_peaks.py``);
without their Pythons PeakVI and MAGIC are left out. On ``sim3`` ten principal components of the counts and of every
method's imputed values are scored as well, and with ``--pictures`` each is drawn (UMAP, types and batches).

Figures are means over the seeds, which seed simulation and training, and beside them those of Table 2.4 and Figure 2.10
of the thesis (Cao 2023). Its simulations have other profiles and 90,635 peaks, and its Dice scores are of Sim3 and of
SAILER and SCALE. What the output file holds of a run is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import measure
import pandas as pd
from measure import HERE, flags, measured, say, shown

from scmap_cli.data.simulation_atac import PRESETS
from scmap_cli.io.npz import read_npz
from scmap_cli.metrics.clustering import RESOLUTIONS
from scmap_cli.metrics.graph import knn, leiden, to_igraph

SIMS = ("sim1", "sim2", "sim3")
EMBEDDED = ("SAILER", "LSI, all components", "LSI", "LSI, Harmony", "mixture VAE", "PeakVI")
IMPUTED = ("SAILER", "MAGIC", "mixture VAE")
FIGURES = ("depth_mi", "batch_mi", "ari", "nmi", "rare_f1", "rare_clusters")
#: depth in sim1 and sim2, batch in sim3; "LSI" there is taken to have all components
TABLE_2_4 = {
    "SAILER": {"sim1": 0.107, "sim2": 0.100, "sim3": 0.005},
    "LSI, all components": {"sim1": 0.610, "sim2": 0.500, "sim3": 0.130},
    "SCALE": {"sim1": 0.290, "sim2": 0.224, "sim3": 0.087},
}
FIGURE_2_10 = {"SAILER": 0.64, "SCALE": 0.54}


class Run:
    """One simulation of one seed, in a folder of its own."""

    def __init__(self, args: argparse.Namespace, sim: str, seed: int) -> None:
        self.args, self.sim, self.seed = args, sim, seed
        self.scmap, self.folder = measure.scmap_command(args.scmap), args.work_dir / f"{sim}_{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.batch_key = "batch" if sim == "sim3" else None
        self.batch = {} if self.batch_key is None else {"batch_key": self.batch_key}
        self.data = self.folder / "atac.h5ad"
        self.files = {
            name: self.folder / f"{name.lower().replace(', ', '-').replace(' ', '-')}.h5ad" for name in EMBEDDED
        }
        self.keys = {"label_key": "cell_type", "batch_key": self.batch_key, "threads": args.threads, "seed": seed}

    def call(self, *words: str | Path, **options: object) -> None:
        """Run scmap; what is there is replaced."""
        common = flags(**options, seed=self.seed, threads=self.args.threads, force=True, quiet=True)
        measured([*self.scmap, *words, *common], self.args.threads)

    def peer(self, python: str, job: str, output: Path, **options: object) -> dict[str, Any]:
        """Run a job of ``peer_peaks.py``; return what it tells."""
        words = [self.data, *flags(o=output, seed=self.seed, **options)]
        return dict(measured([python, HERE / "peer_peaks.py", job, *words], self.args.threads).json())

    def sizes(self) -> dict[str, Any]:
        """Options of ``simulate atac`` that differ from the preset."""
        args, preset = self.args, PRESETS[self.sim]
        found: dict[str, Any] = {"bulk": args.bulk, "n_peaks": args.n_peaks}
        found = {name: value for name, value in found.items() if value is not None}
        cells = ("n_cells", "rare_cells") if preset["rare_types"] else ("n_cells",)
        found |= {name: round(args.cell_share * preset[name]) for name in cells}
        found |= {name: round(args.depth_share * preset[name]) for name in ("min_depth", "max_depth")}
        return found | {"mu": ",".join(f"{args.depth_share * mu:g}" for mu in preset["mu"])}

    def trained(self) -> list[float]:
        """Simulate and train; seconds of each epoch."""
        self.call("simulate", "atac", o=self.data, preset=self.sim, **self.sizes())
        train = shlex.split(self.args.train_options)
        model = self.folder / "model"
        self.call("train", "sailer", self.data, *train, o=model, device=self.args.device, **self.batch)
        return list(measure.training_facts(model)["epoch_seconds"])

    def embeddings(self) -> dict[str, dict[str, float]]:
        """Scores of SAILER's embedding and LSI's."""
        self.call("embed", self.folder / "model", self.data, o=self.files["SAILER"])
        linear: dict[str, dict[str, object]] = {"LSI, all components": {"keep_first": True}, "LSI": {}}
        if self.batch_key is not None:
            linear["LSI, Harmony"] = {"batch_key": self.batch_key}
        for name, more in linear.items():
            baseline = "lsi-harmony" if name == "LSI, Harmony" else "lsi"
            self.call("embed", self.data, o=self.files[name], baseline=baseline, components=10, **more)
        return self.scores({name: self.files[name] for name in ("SAILER", *linear)})

    def scores(self, files: dict[str, Path], **options: object) -> dict[str, dict[str, float]]:
        """Scores of embeddings by name."""
        scores = measure.embedding_scores(self.scmap, list(files.values()), **self.keys, **options)
        return {name: one | rare_f1(path) for (name, path), one in zip(files.items(), scores, strict=True)}

    def peakvi(self) -> dict[str, float]:
        """Scores of PeakVI's embedding of cells that are simulated already."""
        told = self.peer(self.args.peakvi_python, "peakvi", self.files["PeakVI"], **self.batch)
        scores = self.scores({"PeakVI": self.files["PeakVI"]}, embedding="X_peakvi")["PeakVI"]
        return scores | {name: told[name] for name in ("epochs", "dimensions")}

    def dice(self, imputed: Path) -> dict[str, float]:
        """Mean Dice score by rule."""
        words = flags(raw=self.data, label_key="cell_type", threads=self.args.threads, quiet=True)
        told = json.loads(measured([*self.scmap, "evaluate", "imputation", imputed, *words]).stdout)
        return {rule: entry["mean"] for rule, entry in told["results"][0]["dice"].items()}

    def mixture(self) -> dict[str, Any]:
        """Scores of the mixture VAE's embedding and of what it imputes."""
        file, values = self.files["mixture VAE"], self.folder / "imputed.npz"
        types = anndata.read_h5ad(self.data, backed="r").obs["cell_type"].nunique()
        words = flags(o=file, imputed=values, clusters=types, seed=self.seed)
        measured([sys.executable, HERE / "peer_scale.py", self.data, *words], self.args.threads)
        scores = self.scores({"mixture VAE": file}, embedding="X_scale")["mixture VAE"]
        return scores | {"dice": self.dice(values), "values": self.components("mixture VAE", values)}

    def components(self, name: str, values: Path | None) -> dict[str, float]:
        """Scores of ten principal components of imputed values (or of the counts); the values' file is removed."""
        if self.batch_key is None:
            if values is not None:
                values.unlink()
            return {}
        cells = anndata.read_h5ad(self.data)
        if values is not None:
            cells.X = read_npz(values, foreign=True)[1]["imputed"]
            values.unlink()
        as_h5ad, embedded = self.folder / "values.h5ad", self.folder / f"components_{name.replace(' ', '_')}.h5ad"
        cells.write_h5ad(as_h5ad)
        drawn = flags(plot=embedded.with_suffix(".png"), color="cell_type,batch") if self.args.pictures else []
        scale = "counts" if values is None else "as-is"
        self.call("embed", as_h5ad, *drawn, o=embedded, baseline="pca", components=10, input_scale=scale)
        as_h5ad.unlink()
        return self.scores({name: embedded}, embedding="X_pca")[name]

    def raw(self) -> dict[str, float]:
        """Scores of the components of the counts, of log1p CP10k."""
        return self.components("counts", None)

    def imputations(self) -> dict[str, dict[str, float]]:
        """Dice scores of SAILER and MAGIC, and scores of the components of what they impute."""
        values = self.folder / "imputed.npz"
        self.call("impute", self.folder / "model", self.data, o=values, device=self.args.device)
        found = {"SAILER": self.dice(values)}
        found["SAILER"]["values"] = self.components("SAILER", values)
        if self.args.magic_python:
            self.peer(self.args.magic_python, "magic", values)
            found["MAGIC"] = self.dice(values)
            found["MAGIC"]["values"] = self.components("MAGIC", values)
        return found


def rare_f1(path: Path) -> dict[str, float]:
    """How well clusters fit the rare types, those of less than a tenth of the mean size; nothing where there are none.

    ``rare_f1`` is the lowest, over these types, of the F1 of a type's best cluster; ``rare_clusters`` the fewest
    clusters at which it is 0.8 or more, left out where no resolution comes so far.
    """
    adata = anndata.read_h5ad(path, backed="r")
    obs = adata.obs
    sizes = obs["cell_type"].value_counts()
    rare = [name for name, size in sizes.items() if size < sizes.mean() / 10]
    if not rare:
        return {}

    def lowest(found: Any) -> float:
        clusters = pd.Series(found, index=obs.index)
        of_cluster = clusters.value_counts()
        shared = [clusters[obs["cell_type"] == name].value_counts() for name in rare]
        return min(
            float((2 * both / (both + of_cluster[both.index] + sizes[name] - both)).max())
            for name, both in zip(rare, shared, strict=True)
        )

    # Clusters by the functions and the neighbours of ``embed``; a peer writes its embedding alone.
    graph = to_igraph(knn(adata.obsm[next(key for key in adata.obsm if "umap" not in key)], 15)[0])
    by_resolution = [leiden(graph, resolution) for resolution in RESOLUTIONS]
    enough = [len(set(found.tolist())) for found in by_resolution if lowest(found) >= 0.8]
    return {"rare_f1": lowest(leiden(graph))} | ({"rare_clusters": float(min(enough))} if enough else {})


def figures(told: list[dict[str, float]], names: Sequence[str]) -> list[str]:
    """Mean and spread of each figure over the runs that have it."""
    return [shown([one[name] for one in told if name in one]) for name in names]


def told_of(run: dict[str, Any], what: str, name: str) -> dict[str, float]:
    """Figures of one method in one run: of its ``embeddings``, ``dice`` or ``values``; empty where it was not run."""
    mixture = run.get("mixture", {})
    if what == "embeddings":
        found = run["embeddings"] | {"PeakVI": run.get("peakvi"), "mixture VAE": mixture}
    else:
        found = run["dice"] | {"mixture VAE": mixture.get("dice")}
    if what == "values":
        return dict(run.get("counts", {})) if name == "counts" else dict((found.get(name) or {}).get("values", {}))
    return dict(found.get(name) or {})


def tables(runs: dict[str, Any]) -> str:
    """One table of embeddings and one of imputations for each simulation."""
    parts = []
    for sim in SIMS:
        of_sim = [run for name, run in runs.items() if name.startswith(sim) and "dice" in run]
        if not of_sim:
            continue
        rows = []
        for name in EMBEDDED:
            told = [one for run in of_sim if (one := told_of(run, "embeddings", name))]
            rows.append([name, str(len(told)), *figures(told, FIGURES), str(TABLE_2_4.get(name, {}).get(sim, ""))])
        rows.append(["SCALE", "", *[""] * len(FIGURES), str(TABLE_2_4["SCALE"][sim])])
        what = "batch MI" if sim == "sim3" else "depth MI"
        names = ("depth MI", "batch MI", "ARI", "NMI", "rare F1", "clusters")
        header = [sim, "seeds", *names, f"Table 2.4, {what}"]
        parts.append(measure.table(header, [row for row in rows if row[1] != "0"]))
        rules = ("raw", "soft", "cell", "scale", "best")
        rows = []
        for name in IMPUTED:
            told = [one for run in of_sim if (one := told_of(run, "dice", name))]
            published = str(FIGURE_2_10.get(name, "")) if sim == "sim3" else ""
            rows.append([name, str(len(told)), *figures(told, rules), published])
        if sim == "sim3":
            rows.append(["SCALE", "", *[""] * len(rules), str(FIGURE_2_10["SCALE"])])
        header = [f"{sim}, Dice", "seeds", *rules, "Fig. 2.10" if sim == "sim3" else ""]
        parts.append(measure.table(header, [row for row in rows if row[1] != "0"]))
        rows = []
        for name in ("counts", *IMPUTED):
            told = [one for run in of_sim if (one := told_of(run, "values", name))]
            rows.append([name, str(len(told)), *figures(told, FIGURES)])
        if any(row[1] != "0" for row in rows):
            header = [f"{sim}, components of", "seeds", *names]
            parts.append(measure.table(header, [row for row in rows if row[1] != "0"]))
    return "\n\n".join(parts)


def main() -> None:
    """Make the runs that are missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sims", nargs="+", choices=SIMS, default=SIMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--bulk", type=Path, help="table of bulk profiles (default: generated)")
    parser.add_argument("--n-peaks", type=int, help="sample of the table's peaks, or number of generated ones")
    parser.add_argument("--cell-share", type=float, default=1.0, help="of the presets' cells")
    parser.add_argument("--depth-share", type=float, default=1.0, help="of the presets' depths: few peaks stay sparse")
    parser.add_argument("--train-options", default="", help="more options for scmap train sailer, in one string")
    parser.add_argument("--peakvi-python", help="Python with scvi-tools")
    parser.add_argument("--magic-python", help="Python with magic-impute")
    parser.add_argument("--mixture", action="store_true", help="also the mixture VAE, and components of the counts")
    parser.add_argument("--pictures", action="store_true", help="draw the components of counts and imputed values")
    parser.add_argument("--work-dir", type=Path, required=True, help="data, models and embeddings of every run")
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=measure.machine()["cores"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON with every figure")
    args = parser.parse_args()
    compared = ("bulk", "n_peaks", "cell_share", "depth_share", "train_options")
    settings = {name: value for name, value in measure.settings(args).items() if name in compared}
    runs = measure.earlier_runs(args.output, settings)
    for seed in args.seeds:
        for sim in args.sims:
            name, run = f"{sim}, seed {seed}", Run(args, sim, seed)
            jobs = {"epoch_seconds": run.trained, "embeddings": run.embeddings, "dice": run.imputations}
            if args.mixture:
                jobs |= {"mixture": run.mixture, "counts": run.raw}
            if sim == "sim3" and args.peakvi_python:
                jobs["peakvi"] = run.peakvi
            told = runs.setdefault(name, {})
            missing = [job for job in jobs if job not in told]
            for job in missing:
                told[job] = jobs[job]()
                measure.write_runs(args, "simulated_atac", settings, runs)
            if missing:
                say(f"{name}: {json.dumps(told)}")
    say("\n" + tables(runs))


if __name__ == "__main__":
    main()
