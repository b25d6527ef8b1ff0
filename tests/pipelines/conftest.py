"""An ``scmap`` for bash: a small program in a folder of its own, behind which the commands run as forked processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Passes signals on, as a program in the foreground would be reached by them.
SCMAP = f"""#!{sys.executable} -ISE
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect(os.environ["SCMAP_SOCKET"])
stream = link.makefile("rw")
env = {{key: value for key, value in os.environ.items() if key.startswith(("SLURM", "OMP"))}}
stream.write(json.dumps({{"words": sys.argv[1:], "folder": os.getcwd(), "env": env}}) + "\\n")
stream.flush()
pid = int(stream.readline())
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
answer = json.loads(stream.readline())
sys.stderr.write(open(answer["err"]).read())
try:
    sys.stdout.write(open(answer["out"]).read())
    sys.stdout.flush()
except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os._exit(answer["code"] if answer["code"] >= 0 else 128 - answer["code"])
"""


@dataclass
class Shell:
    """Runs programs in ``folder`` with that ``scmap`` and what else is put into ``programs`` before all others."""

    folder: Path
    programs: Path
    env: dict[str, str]

    def add(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *words: object, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.env | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: object, status: int = 0, **env: str) -> str:
        """Run to the end; what it wrote to stdout."""
        done = self.start(*words, **env)
        out, err = done.communicate(timeout=300)
        assert done.returncode == status, f"exit code {done.returncode}, not {status}\n{out}\n{err}"
        return out


def _serve(server: Any, listener: socket.socket, streams: Path) -> None:
    number = 0
    while True:
        try:
            link, _ = listener.accept()
        except OSError:
            return
        number += 1
        out, err = streams / f"{number}.out", streams / f"{number}.err"
        stream = link.makefile("rw")
        request = json.loads(stream.readline())
        words = [*request["words"], *(["-t", "1"] if "-h" not in request["words"] else [])]
        pid = server.ask(
            words=words, folder=request["folder"], env=request["env"], file_size=0, out=str(out), err=str(err)
        )
        stream.write(f"{pid}\n")
        stream.flush()
        code = server.ask(wait=pid)
        stream.write(json.dumps({"code": code, "out": str(out), "err": str(err)}) + "\n")
        stream.flush()
        stream.close()
        link.close()


@pytest.fixture
def shell(server: Any, tmp_path: Path) -> Iterator[Shell]:
    for name in ("work", "streams", "bin"):
        (tmp_path / name).mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    thread = threading.Thread(target=_serve, args=(server, listener, tmp_path / "streams"), daemon=True)
    thread.start()
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    modules = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PATH": path, "SCMAP_SOCKET": str(tmp_path / "s"), "PYTHONPATH": modules}
    made = Shell(tmp_path / "work", tmp_path / "bin", env)
    made.add("scmap", SCMAP)
    yield made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=30)
