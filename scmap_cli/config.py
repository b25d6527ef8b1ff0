"""Run settings: the training config, and TOML files that set any option by section.

Precedence is default < ``--config`` file < flag. An unknown section or key is an error that names the nearest known
one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scmap_cli.errors import InputError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop, the same for every model.

    Attributes
    ----------
    epochs
        Most epochs that are trained.
    batch_size
        Cells per step and process.
    lr, adam_eps, weight_decay
        Adam's learning rate, epsilon and L2 weight; 0 is off.
    validation_share
        Share of every condition's cells held out for model selection; 0 trains on all and keeps the last weights.
    patience
        Epochs without a better validation score before training ends; 0 never ends early. Counted from the end of the
        annealing on, as epochs before it cannot be the best.
    lr_patience, lr_factor
        Epochs without a better score before the learning rate is multiplied by the factor; 0 never.
    sampling
        ``balanced`` draws conditions equally often, with replacement; ``shuffle`` draws cells without replacement. An
        epoch is as many whole batches as the cells fill.
    precision
        ``fp32``, or ``bf16`` for the matrix products.
    grad_clip
        Largest gradient norm; 0 is off.
    checkpoint_minutes
        Time between checkpoints.
    """

    epochs: int = 400
    batch_size: int = 128
    lr: float = 1e-3
    adam_eps: float = 0.01
    weight_decay: float = 0.0
    validation_share: float = 0.1
    patience: int = 50
    lr_patience: int = 13
    lr_factor: float = 0.1
    sampling: str = "balanced"
    precision: str = "fp32"
    grad_clip: float = 0.0
    checkpoint_minutes: float = 7.0

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)} must be at least 1")
        if not self.lr > 0:
            raise UsageError(f"lr {self.lr} must be above 0")
        if not 0 <= self.validation_share < 1:
            raise UsageError(f"validation_share {self.validation_share} is not in [0, 1)")
        for key in ("adam_eps", "weight_decay", "patience", "lr_patience", "grad_clip", "checkpoint_minutes"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} {getattr(self, key)} must not be negative")
        if not 0 < self.lr_factor <= 1:
            raise UsageError(f"lr_factor {self.lr_factor} is not in (0, 1]")
        for key, allowed in (("sampling", ("balanced", "shuffle")), ("precision", ("fp32", "bf16"))):
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key} is {getattr(self, key)!r}", f"choose one of {', '.join(allowed)}")


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Settings of the loop for large models: what :class:`TrainConfig` has, and these.

    Attributes
    ----------
    optimizer
        ``adam`` (its weight decay is an L2 term) or ``adamw`` (decoupled).
    schedule
        ``plateau``: the rate is cut when the score rests. ``cosine``: it falls to a tenth by the end of the run.
    warmup
        Share of all steps over which the learning rate rises from 0.
    accumulate
        Batches whose gradients are added up before a step; a step sees ``batch_size`` times ``accumulate`` cells of
        each process.
    compile
        Let torch compile the layers.
    """

    optimizer: str = "adam"
    schedule: str = "plateau"
    warmup: float = 0.0
    accumulate: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate < 1:
            raise UsageError(f"accumulate {self.accumulate} must be at least 1")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup {self.warmup} is not in [0, 1)")
        for key, allowed in (("optimizer", ("adam", "adamw")), ("schedule", ("plateau", "cosine"))):
            if getattr(self, key) not in allowed:
                raise UsageError(f"{key} is {getattr(self, key)!r}", f"choose one of {', '.join(allowed)}")


def load_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file; :class:`InputError` says where it is not TOML."""
    try:
        with Path(path).open("rb") as handle:
            return tomllib.load(handle)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from None


def nearest(word: str, known: list[str]) -> str:
    """A hint that names the nearest known word, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def check_keys(given: Mapping[str, Any], known: list[str], where: str) -> None:
    """Raise :class:`UsageError` for the first key that is not known."""
    for key in given:
        if key not in known:
            raise UsageError(f"unknown key {key!r} in {where}", nearest(key, known))


def build(kind: type[T], *layers: Mapping[str, Any], where: str) -> T:
    """A frozen config from layers of settings, later ones winning; ``None`` means not given.

    Values are converted to the type of the field's default: lists to tuples, integers to floats, numbers to text where
    a word may stand instead. A value of another type is a :class:`UsageError` that names the key.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    merged: dict[str, Any] = {}
    for layer in layers:
        check_keys(layer, list(fields), where)
        merged |= {key: value for key, value in layer.items() if value is not None}
    for key, value in merged.items():
        merged[key] = _converted(value, fields[key].default, f"{key} in {where}")
    return kind(**merged)


def _converted(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, str) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if default is not None and type(value) is not type(default):
        raise UsageError(f"{name} is {value!r}, which is not of type {type(default).__name__}")
    return value


def as_dict(config: Any) -> dict[str, Any]:
    """JSON values of a config dataclass (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def dump_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Write sections of plain values as TOML; ``None`` values become comments that name the key."""
    lines: list[str] = []
    for name, section in sections.items():
        lines.append(f"[{name}]")
        for key, value in section.items():
            # JSON text of numbers, strings, booleans and flat lists is also TOML.
            lines.append(f"# {key} is not set" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}")
        lines.append("")
    return "\n".join(lines)
