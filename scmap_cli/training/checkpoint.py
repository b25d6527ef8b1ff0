"""Checkpoints: one safetensors file with every tensor of the run, its header holding the rest as JSON. No pickle.

The file is replaced atomically, so a kill leaves the last whole checkpoint. A checkpoint is only continued by a run
with the same identity (configs, features, cells, seed); otherwise the first key that differs is named.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scmap_cli.errors import InputError, UsageError, WriteError
from scmap_cli.io.atomic import atomic_file

FILE = "last.safetensors"

TRIALS = "trials"
"""Folder beside the file, with the checkpoint of trials that come before the training."""


def unfinished(folder: Path) -> bool:
    """Whether a run can go on from what is in its folder, be it at its training or at its trials."""
    return any((place / FILE).is_file() for place in (folder, folder / TRIALS))


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v for key, inner in value.items() for k, v in _flat(f"{prefix}.{key}" if prefix else key, inner).items()
        }
    return {prefix: value}


def difference(saved: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first key in which two identities differ, with both values, or None."""
    old, new = _flat("", saved), _flat("", wanted)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
    return None


class Checkpoint:
    """The checkpoint of one run in ``folder``.

    Parameters
    ----------
    folder
        Where the file lives, inside the run's output directory.
    identity
        JSON values that must agree for a run to be continued.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.path = folder, folder / FILE
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))

    def exists(self) -> bool:
        """Whether a checkpoint is there."""
        return self.path.is_file()

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write tensors and JSON state, replacing the last checkpoint.

        Raises
        ------
        WriteError
            It could not be written; the last one is still there, or else no folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        header = {"scmap": json.dumps({"identity": self.identity, "state": state})}
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            with atomic_file(self.path, force=True) as tmp:
                _write(plain, tmp, header)
        except WriteError:
            with suppress(OSError):
                self.folder.rmdir()
                self.folder.parent.rmdir()
            raise

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors (on the CPU) and state.

        Raises
        ------
        InputError
            The file is damaged.
        UsageError
            It belongs to another run; the message names the key.
        """
        return self._read(tensors=True)

    def check(self) -> None:
        """Raise what :meth:`load` would, without reading the tensors."""
        self._read(tensors=False)

    def _read(self, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        try:
            with safe_open(self.path, framework="pt") as handle:
                header = json.loads((handle.metadata() or {})["scmap"])
                differs = difference(header["identity"], self.identity)
                names = handle.keys() if tensors and not differs else []
                found = {name: handle.get_tensor(name) for name in names}
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise InputError(
                f"the checkpoint {self.path} is damaged: {error}", "start anew with --resume never --force"
            ) from error
        if differs:
            raise UsageError(
                f"the checkpoint in {self.folder} is of another run: {differs}",
                "give the same options, or --resume never --force to start anew",
            )
        return found, header["state"]

    def remove(self) -> None:
        """Delete the checkpoint and its folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _write(tensors: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=header)
    except SafetensorError as error:
        raise WriteError(f"could not write the checkpoint: {error}", "make room, or write elsewhere") from error


def pack_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors of an Adam-like optimiser by parameter name."""
    packed: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            packed[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    return packed


def unpack_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put tensors of :func:`pack_optimizer` back; :class:`InputError` where the optimiser keeps others."""
    by_name = dict(model.named_parameters())
    for full, value in tensors.items():
        if full.startswith("optimizer."):
            _, key, name = full.split(".", 2)
            parameter = by_name[name]
            known = optimizer.state[parameter].get(key)
            if known is not None and known.shape != value.shape:
                raise InputError(
                    f"the checkpoint is of another version: moments of {name} have the shape {tuple(value.shape)}, "
                    f"not {tuple(known.shape)}",
                    "start anew with --resume never",
                )
            on_device = value if key == "step" and parameter.device.type == "cpu" else value.to(parameter.device)
            optimizer.state[parameter][key] = on_device
