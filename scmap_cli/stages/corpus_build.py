"""The unfinished build of a corpus: its folder beside the corpus, what is whole in it, and how it is published."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.io import shards
from scmap_cli.io.atomic import atomic_dir, write_json
from scmap_cli.runtime.logs import log

_PLAN = "plan.json"


@dataclass
class Tally:
    """What was left out or cut on the way."""

    empty: int = 0
    saturated: int = 0


def _identity(record: dict[str, Any], genes: np.ndarray, base: shards.Corpus | None) -> dict[str, Any]:
    text = {"record": record, "genes": genes.tolist(), "base": base.digest() if base is not None else None}
    plain: dict[str, Any] = json.loads(json.dumps(text))
    return plain


def begin(
    output: Path, record: dict[str, Any], genes: np.ndarray, base: shards.Corpus | None
) -> tuple[Path, list[shards.Part], Tally]:
    """The folder of the unfinished parts, the parts that an earlier run of the same command left there, its tally."""
    work = shards.building(output)
    done: list[shards.Part] = []
    tally = Tally()
    try:
        plan = json.loads((work / _PLAN).read_text(encoding="utf-8"))
        if plan["identity"] == _identity(record, genes, base):
            done = [shards.Part(**part) for part in plan["parts"]]
            tally = Tally(**plan["tally"])
            for part in done:
                shards.check_part(work, part)
            log.info("going on after %d parts", len(done))
        else:
            log.warning("parts of another build of %s are dropped", output)
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, InputError):
        log.warning("the parts of a stopped build of %s are damaged and are made anew", output)
        done = []
    if not done:
        tally = Tally()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    return work, done, tally


def note(
    work: Path,
    record: dict[str, Any],
    genes: np.ndarray,
    base: shards.Corpus | None,
    done: list[shards.Part],
    tally: Tally,
) -> None:
    """Write down which parts are whole, and what was left out of them."""
    identity = _identity(record, genes, base)
    write_json(
        work / _PLAN,
        {"identity": identity, "parts": [asdict(part) for part in done], "tally": asdict(tally)},
        force=True,
    )


def publish(corpus: shards.Corpus, work: Path, force: bool, base: shards.Corpus | None) -> None:
    """Move the parts into place; the manifest comes last."""
    own = [part.name for part in corpus.parts[len(base.parts) if base is not None else 0 :]]
    if base is not None:
        for name in own:
            shutil.rmtree(corpus.path / name, ignore_errors=True)
            os.rename(work / name, corpus.path / name)
        shards.write_manifest(corpus)
    else:
        with atomic_dir(corpus.path, force=force) as folder:
            for name in own:
                os.rename(work / name, folder / name)
            shards.write_manifest(replace(corpus, path=folder))
    shutil.rmtree(work, ignore_errors=True)
