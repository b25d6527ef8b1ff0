"""The peer's side: MarkerMap of the package markermap, run by the Python of its own environment.

    python3 -m venv markermap-env
    markermap-env/bin/pip install markermap==1.0.3

``import markermap`` also wants modules that its training does not use, such as ``persist``, which no package index
has; empty ones stand in for them here. ``time`` trains for some epochs with the package's own data loader and trainer
and clocks each epoch; ``top-k`` clocks its relaxed choice, forward and backward. The last line printed is one JSON
object.
"""

import argparse
import json
import sys
import time
import types
from importlib.metadata import version

UNUSED = {"lassonet": ["LassoNetClassifier"], "RankCorr": [], "RankCorr.rocks": ["Rocks"], "cosg": [], "persist": []}


def load_package():
    """The package's models, with stand-ins for what it imports besides."""
    # The benchmark beside this file has the name of the package.
    sys.path.pop(0)
    for name, members in UNUSED.items():
        try:
            __import__(name)
        except ImportError:
            module = types.ModuleType(name)
            for member in members:
                setattr(module, member, type(member, (), {}))
            sys.modules[name] = module
    import markermap.vae_models

    return markermap.vae_models


def clock_training(args):
    import numpy as np
    import pytorch_lightning as pl
    import torch

    models = load_package()
    torch.manual_seed(args.seed)  # noqa: TID251
    with np.load(args.cells, allow_pickle=False) as stored:  # noqa: TID251  scmap is not in this environment
        x, y = torch.from_numpy(stored["scaled"]), torch.from_numpy(stored["codes"]).long()
    alpha = {"supervised": 0.0, "unsupervised": 1.0, "joint": 0.5}[args.mode]
    classes = None if args.mode == "unsupervised" else int(y.max()) + 1
    model = models.MarkerMap(x.shape[1], args.width, 16, classes, args.k, loss_tradeoff=alpha, lr=1e-3)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=args.batch_size, shuffle=True, drop_last=True
    )
    ends = [time.perf_counter()]

    class Clock(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            ends.append(time.perf_counter())

    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Clock()],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, loader)
    cells = len(loader) * args.batch_size
    return {"epoch_seconds": [b - a for a, b in zip(ends, ends[1:])], "cells_per_epoch": cells}  # noqa: B905, RUF007


def clock_top_k(args):
    import torch

    models = load_package()
    torch.manual_seed(args.seed)  # noqa: TID251
    logits = torch.randn(args.genes, requires_grad=True)
    seconds = []
    for _ in range(args.epochs):
        start = time.perf_counter()
        mask = models.continuous_topk(logits, args.k, args.temperature, "cpu")
        torch.autograd.grad(mask.square().sum(), logits)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "top-k"])
    parser.add_argument("--cells")
    parser.add_argument("--mode", default="supervised")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--genes", type=int, default=12000)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-k", type=int, default=50)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    found = clock_training(args) if args.what == "time" else clock_top_k(args)
    json.dump(found | {"versions": {name: version(name) for name in ("markermap", "torch")}}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
