"""Runs scmap commands in processes of their own without paying for the imports each time.

A helper process imports the package once, then forks a child for every JSON line it reads; the child is a process like
any other: it has its own streams, signals and exit code. Started by ``conftest.py``.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory


def child(request: dict) -> None:  # type: ignore[type-arg]
    os.setpgid(0, 0)
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if request["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    from scmap_cli.cli.app import main

    try:
        main(request["words"])
    except SystemExit as end:
        # Taking the interpreter down costs more than the command; its streams are all that counts.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


def serve() -> None:
    # Everything that a command below imports, also what its libraries import at first use.
    for module in (
        *(
            "scmap_cli.cli.app",
            "scmap_cli.stages.preprocess_rna",
            "scmap_cli.stages.train_expimap",
            "scmap_cli.stages.embed",
        ),
        *("scmap_cli.stages.describe", "scmap_cli.stages.info", "torch._dynamo", "anndata.io"),
    ):
        import_module(module)
    import torch

    from scmap_cli.plots.draw import loss_curves

    # The first picture loads the fonts.
    with TemporaryDirectory() as folder:
        loss_curves([{"epoch": 1, "train_loss": 1.0, "kl": 1.0}], Path(folder) / "loss.png")

    # Thread pools do not survive a fork; with one thread none is ever made.
    torch.set_num_threads(1)

    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            status = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            answers.write(f"{status}\n")
            answers.flush()
            continue
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            child(request)
        answers.write(f"{pid}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
