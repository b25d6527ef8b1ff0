"""For tests of whole runs: ``scmap`` starts processes that can be killed, ``sample`` is what they train on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Server:
    """The helper process of ``forking.py``."""

    def __init__(self) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(Path(__file__).with_name("forking.py"))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, **request: object) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Command:
    """A started command."""

    server: Server
    pid: int
    out: Path
    err: Path

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def said(self) -> str:
        return self.err.read_text() if self.err.exists() else ""

    def wait_for(self, path: Path, seconds: float = 60.0) -> None:
        """Until the command has made ``path``."""
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, self.said()
            time.sleep(0.005)

    def wait(self) -> int:
        """The exit code; negative for a signal."""
        return self.server.ask(wait=self.pid)


class Scmap:
    """Starts scmap commands in ``folder``."""

    def __init__(self, server: Server, folder: Path, streams: Path) -> None:
        self.server, self.folder, self.streams = server, folder, streams
        self._count = 0

    def start(self, *words: object, file_size: int = 0, **env: str) -> Command:
        self._count += 1
        out, err = self.streams / f"{self._count}.out", self.streams / f"{self._count}.err"
        pid = self.server.ask(
            words=[str(word) for word in words],
            folder=str(self.folder),
            env=env,
            file_size=file_size,
            out=str(out),
            err=str(err),
        )
        return Command(self.server, pid, out, err)

    def run(self, *words: object, status: int = 0, file_size: int = 0) -> str:
        """Run to the end; what it said on stderr."""
        command = self.start(*words, file_size=file_size)
        code = command.wait()
        assert code == status, f"exit code {code}, not {status}\n{command.said()}"
        return command.said()


@dataclass(frozen=True)
class Sample:
    data: Path
    programs: Path

    def train(self, output: Path | str, *more: object, epochs: int = 6) -> list[str]:
        """Words of a short training."""
        words = ["train", "expimap", self.data, "-o", output, "--programs", self.programs, "--batch-key", "batch"]
        words += ["--hidden", "16", "--batch-size", 16, "--kl-anneal-epochs", 2, "--epochs", epochs]
        words += ["--device", "cpu", "-t", 1, *more]
        return [str(word) for word in words]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def scmap(server: Server, tmp_path: Path) -> Scmap:
    for name in ("work", "streams"):
        (tmp_path / name).mkdir()
    return Scmap(server, tmp_path / "work", tmp_path / "streams")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    # Not above: tests that need none of this shall not import the stages.
    from scmap_cli.stages.simulate import simulate_rna

    folder = tmp_path_factory.mktemp("sample")
    made = Sample(folder / "sim.h5ad", folder / "programs.npz")
    simulate_rna(made.data, preset="tiny", n_cells=200, programs_output=made.programs)
    return made


@pytest.fixture(scope="session")
def straight(server: Server, sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs nobody disturbed gave: ``model``, its ``seconds``, ``emb.h5ad`` made with it, and ``pre.h5ad``."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "streams").mkdir()
    scmap = Scmap(server, folder, folder / "streams")
    started = time.monotonic()
    scmap.run(*sample.train("model"))
    (folder / "seconds").write_text(str(time.monotonic() - started))
    scmap.run("embed", "model", sample.data, "-o", "emb.h5ad", "--device", "cpu", "-t", 1)
    scmap.run("preprocess", "rna", sample.data, "-o", "pre.h5ad", "-t", 1)
    return folder
