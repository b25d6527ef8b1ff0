"""Which models and marker selectors exist, as import strings: the terminal lists them without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from scmap_cli.errors import UsageError

if TYPE_CHECKING:
    from scmap_cli.markers.base import SelectFunction
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
            "sailerx",
            "joint embedding of paired RNA and ATAC, and of ATAC-only cells",
            "scmap_cli.models.sailerx:SailerX",
            "multiome",
        ),
        ModelSpec(
            "expimap",
            "interpretable reference of gene programs from scRNA counts",
            "scmap_cli.models.expimap:ExpiMap",
            "rna",
        ),
        ModelSpec(
            "markermap",
            "marker genes for labels, for rebuilding all genes, or for both",
            "scmap_cli.models.markermap:MarkerMap",
            "rna",
        ),
        ModelSpec(
            "expresser",
            "gene embeddings and imputation from many scRNA sets",
            "scmap_cli.models.expresser:Expresser",
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


@dataclass(frozen=True)
class Selector:
    """One way to choose marker genes: its name, what it does, and where its function lives.

    Attributes
    ----------
    name
        Name on the command line.
    summary
        One line for the help.
    target
        ``module:function``, of the type :class:`scmap_cli.markers.base.SelectFunction`.
    needs_labels
        Whether it cannot work without labels.
    nested
        Whether the first j genes of a choice of k are the choice of j, so that one choice serves all smaller numbers.
    published
        How the MarkerMap paper ran it, where that is not how it is meant; empty where there is no difference.
    on_device
        Whether its function takes a ``device`` to train on.
    forces
        Whether its function takes ``forced_in`` and ``forced_out``; with the others forced genes are set apart.
    package
        Distribution that must be installed, where it is not one of scmap's own requirements.
    """

    name: str
    summary: str
    target: str
    needs_labels: bool = True
    nested: bool = False
    published: str = ""
    on_device: bool = False
    forces: bool = False
    package: str = ""

    def load(self) -> SelectFunction:
        """Import and return the function; :class:`UsageError` names a package that is not installed."""
        module, _, attribute = self.target.partition(":")
        try:
            loaded: SelectFunction = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if not self.package or error.name != self.package:
                raise
            raise UsageError(
                f"the method {self.name} needs the package {self.package}",
                "install it: pip install 'scmap-cli[markers]'",
            ) from None
        return loaded


_SCALED = "on scaled and clipped values, the last row filled by {}"

_PAPER_TRAINING = "the paper's loss (sums over genes beside one cross-entropy), width, temperatures and training"

SELECTORS: dict[str, Selector] = {
    one.name: one
    for one in (
        Selector(
            "markermap",
            "learned mask for a classifier and for neighbours (MarkerMap)",
            "scmap_cli.stages.marker_model:select_for_labels",
            published=_PAPER_TRAINING,
            on_device=True,
            forces=True,
        ),
        Selector(
            "markermap-unsupervised",
            "learned mask for rebuilding all genes (MarkerMap)",
            "scmap_cli.stages.marker_model:select_for_genes",
            needs_labels=False,
            published=_PAPER_TRAINING,
            on_device=True,
            forces=True,
        ),
        Selector(
            "markermap-joint",
            "learned mask for both (MarkerMap)",
            "scmap_cli.stages.marker_model:select_for_both",
            published=_PAPER_TRAINING,
            on_device=True,
            forces=True,
        ),
        Selector(
            "concrete-vae",
            "k relaxed one-hot draws of an autoencoder's inputs (Concrete VAE)",
            "scmap_cli.markers.gumbel_vae:select_concrete",
            needs_labels=False,
            published="hardly cooled, and genes of one more random draw",
        ),
        Selector(
            "global-gumbel",
            "one relaxed choice of an autoencoder's inputs (Global-Gumbel VAE)",
            "scmap_cli.markers.gumbel_vae:select_global",
            needs_labels=False,
            published="steps so small that no logit leaves its random start",
        ),
        Selector("l1-logistic", "multinomial logistic regression with an L1 penalty", "scmap_cli.markers.l1:select"),
        Selector(
            "greedy-labels",
            "one gene after the other, by least squares on the classes",
            "scmap_cli.markers.greedy:select_for_labels",
            nested=True,
        ),
        Selector(
            "greedy-columns",
            "one gene after the other, by least squares on all genes",
            "scmap_cli.markers.greedy:select_for_genes",
            needs_labels=False,
            nested=True,
        ),
        Selector(
            "smash",
            "importance in a class-balanced random forest (SMaSH)",
            "scmap_cli.markers.smash:select_forest",
            nested=True,
            published="one fixed seed, and a fifth of the cells left out",
        ),
        Selector(
            "smash-dnn",
            "Shapley values of a small network (SMaSH)",
            "scmap_cli.markers.smash:select_network",
            nested=True,
            published="one fixed seed, and Shapley values of a tenth of the held-out cells",
        ),
        Selector(
            "rankcorr",
            "sparse rank correlation with each class (RankCorr)",
            "scmap_cli.markers.rankcorr:select",
            published="one fixed sparsity, and the first k genes in the order of the file",
        ),
        Selector(
            "persist",
            "learned k-hot mask for a classifier (PERSIST)",
            "scmap_cli.markers.persist:select_for_labels",
        ),
        Selector(
            "persist-unsupervised",
            "learned k-hot mask for a hurdle model of all genes (PERSIST)",
            "scmap_cli.markers.persist:select_for_genes",
            needs_labels=False,
            published="hurdle on scaled values, so above the mean instead of expressed",
        ),
        Selector(
            "lassonet",
            "last genes on the path of a sparse residual network (LassoNet)",
            "scmap_cli.markers.lassonet:select",
            package="lassonet",
            published="full path down to no gene, on the training cells proper",
        ),
        Selector(
            "cosg",
            "cosine similarity with each class (COSG)",
            "scmap_cli.markers.cosg:select",
            nested=True,
            package="cosg",
            published=_SCALED.format("score"),
        ),
        Selector(
            "t-test",
            "Welch's t-test of each class against the rest",
            "scmap_cli.markers.rank_tests:select_t_test",
            nested=True,
            published=_SCALED.format("p-value"),
        ),
        Selector(
            "t-test-overestim-var",
            "t-test with overestimated variance",
            "scmap_cli.markers.rank_tests:select_t_test_overestim_var",
            nested=True,
            published=_SCALED.format("p-value"),
        ),
        Selector(
            "wilcoxon",
            "rank-sum test of each class against the rest",
            "scmap_cli.markers.rank_tests:select_wilcoxon",
            nested=True,
            published=_SCALED.format("p-value"),
        ),
        Selector(
            "wilcoxon-tie",
            "rank-sum test with correction for ties",
            "scmap_cli.markers.rank_tests:select_wilcoxon_tie",
            nested=True,
            published=_SCALED.format("p-value"),
        ),
        Selector(
            "hvg",
            "most variable genes (scanpy, flavour seurat)",
            "scmap_cli.markers.hvg:select",
            needs_labels=False,
            nested=True,
        ),
        Selector(
            "random",
            "genes drawn at random",
            "scmap_cli.markers.chance:select",
            needs_labels=False,
            nested=True,
        ),
    )
}
"""Every selector by name; a new one needs an entry here and a file in ``markers/``."""


def get_selector(name: str) -> Selector:
    """The selector of a name; :class:`UsageError` names the known ones."""
    try:
        return SELECTORS[name]
    except KeyError:
        raise UsageError(f"unknown method {name!r}", f"known methods: {', '.join(SELECTORS)}") from None
