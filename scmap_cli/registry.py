"""Which models exist, as import strings: the terminal lists them without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from scmap_cli.errors import UsageError

if TYPE_CHECKING:
    from scmap_cli.models.base import ScmapModel


@dataclass(frozen=True)
class ModelSpec:
    """One model: its name, what it is for, and where its class lives.

    Attributes
    ----------
    name
        Name on the command line and in file slots.
    summary
        One line for the help.
    target
        ``module:Class`` of the model.
    modality
        ``rna``, ``atac`` or ``multiome``.
    """

    name: str
    summary: str
    target: str
    modality: str

    def load(self) -> type[ScmapModel]:
        """Import and return the model class."""
        module, _, attribute = self.target.partition(":")
        loaded: type[ScmapModel] = getattr(import_module(module), attribute)
        return loaded


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "sailer",
            "embedding of scATAC peaks free of depth and batch; imputed accessibility",
            "scmap_cli.models.sailer:Sailer",
            "atac",
        ),
        ModelSpec(
            "expimap",
            "interpretable reference of gene programs from scRNA counts",
            "scmap_cli.models.expimap:ExpiMap",
            "rna",
        ),
    )
}


def get_model(name: str) -> ModelSpec:
    """The spec of a model by name; :class:`UsageError` names the known ones."""
    try:
        return MODELS[name]
    except KeyError:
        raise UsageError(f"unknown model {name!r}", f"known models: {', '.join(MODELS)}") from None
