r"""Expresser (Expression Transformer): gene embeddings and imputation by predicting masked expression values.

Cao, "Deep learning methods for single-cell multi-omics" (thesis 2023), chapter 4; there is no released code.
Implemented here:

* equation 4.1: a learned token of dimension d for every gene, and one for each of k bins of expression;
* section 4.2.1: values are log1p of counts per 10,000; the bins of a cell are k equal parts of (0, L], L the cell's
  largest value;
* equations 4.2-4.3 and section 4.2.2, the encoder: N transformer layers over the tokens of the expressed genes, which
  are told neither values nor places;
* section 4.2.2, the expression decoder: after the encoder a random subset of the genes is masked; one layer of
  cross-attention from masked genes (queries) to observed genes (keys), whose values are the tokens of the observed bins
  times a matrix :math:`W^V`; without a decoder (``decoder=False``, the thesis's ablation) a standard encoder layer
  takes its place, the bin tokens are added to the observed genes and a mask token to the others;
* equation 4.4, the head: :math:`\hat X = softplus(MLP([P, L]))`;
* equation 4.5, the squared error over masked genes.

What the text leaves open, or where it is not followed:

* **Leaks.** The text takes L, the bins and the normalising total from the whole cell, masked genes included: if the
  largest value is masked, L is the answer, and the total tells the sum of what is masked. Here all three are taken from
  the observed genes of each draw; ``leaky=True`` is the text's way, in training. Of a cell with more than ``max_genes``
  the genes outside its subset count as observed for L and total, which are then those of the cell less what is masked.
  True values are by the same observed total, where the text normalises the cell before it masks.
* Bins are numbered 1..k by ceil(k x / L): the text's half-open intervals leave out the largest value. ``binning`` can
  be ``quantile``: k equal shares of the cell's observed values, equal values together.
* The masked share is not told: each cell and draw has its own, uniform in ``mask_low``..``mask_high``. As the encoder's
  output does not depend on the mask, ``draws`` masks share one pass through it.
* Cells are not cut at 1,100 genes: in training a cell with more than ``max_genes`` has a random subset of them each
  epoch, at inference all. Nothing is padded (:mod:`..nn.attention`).
* The norms of a layer come before it (:class:`..nn.attention.Block`), and one more after the encoder; hidden units are
  4 d, there is no dropout. The MLP of the head has one hidden layer of d units. Tokens begin as normal with deviation
  .02, the head's last bias at the mean value.
* Gene tokens begin as the genes' co-expression in a sample of the training cells (``gene_start``,
  :func:`..data.decomposition.gene_svd`), as the encoder would have to learn first which genes go together; the text
  draws them at random.
* The heads of an attention are put together by a linear map, as in the encoder of Vaswani et al. that the text names;
  equation 4.3 only lists them.
* The total that values are normalised by is over the gene list, not over all genes of the file;
  :mod:`..training.asked` brings predictions to the total of the file.
* Masked genes are told to each other by the encoder, which sees all; candidates that nobody says are expressed
  (:meth:`Expresser.impute_each`) are not: each looks at the cell's genes and itself, and they do not look at it.
* The decoder adds the masked gene's own vector to what it has attended to (``residual``), as transformer layers do;
  the text writes no residual, and then a gene's level can come through attention weights alone.
* The head is also told the value of a single count, log1p of 1e4 by the observed total (``tell_scale``), next to L.
  Most values of droplet data are that of one or two counts; with L alone those of a new study can be off by its depth.
* The sum of equation 4.5 is divided by the cells of the batch and the mean number of masked genes of a cell, a
  constant: the loss is near a mean over masked genes, and its gradient stays exact over processes and accumulation.

The masked genes are among the encoder's input: the model predicts the value of a gene *given that it is expressed*. It
cannot tell true zeros.

Training (defaults in :mod:`..stages.train_expresser`): the learning rate 1e-4 is the thesis's, its Adam is AdamW here;
warm-up, cosine, clipping and six epochs are ours, as the text tells none, and so are the 5 % of the cells that are held
out for validation and the weights of the epoch that is best on them. ``evaluate genes`` scores pairs as the text does,
but for a sample of 20,000 to train and to test on (``--max-pairs``).

Presets: ``thesis`` is 12 layers, 4 heads, d = 200; ``wide`` has d = 256, heads of 64, which fused kernels take without
padding; ``tiny`` trains on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn.functional import softplus

from scmap_cli.data.masks import BINNINGS, Draw, bins_of, draw_masks, observe
from scmap_cli.data.tokens import MemoryRows, TokenBatch, TokenStore
from scmap_cli.errors import UsageError
from scmap_cli.models.base import LossOutput, Posterior, ScmapModel
from scmap_cli.nn.attention import Block, Sizes, packed_attention
from scmap_cli.nn.noise import Noise

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"width": 64, "layers": 2, "heads": 2},
    "thesis": {"width": 200, "layers": 12, "heads": 4},
    "wide": {"width": 256, "layers": 12, "heads": 4},
}
GENE_STARTS = ("co-expression", "random")
#: root mean square of the gene tokens that begin as co-expression
_START_SIZE = 0.1


@dataclass(frozen=True)
class ExpresserConfig:
    """Hyperparameters of Expresser.

    Attributes
    ----------
    preset
        Sizes that are not given (0): ``tiny``, ``thesis`` or ``wide``, see :data:`PRESETS`.
    width, layers, heads
        Dimension d of the tokens, encoder layers N, attention heads h (which d is a multiple of).
    bins, binning
        Number k of expression bins, and whether they are equal in ``width`` or hold equal shares (``quantile``).
    mask_low, mask_high
        Range of the masked share of a cell's genes.
    draws
        Masks drawn for each pass through the encoder.
    max_genes
        Most genes of a cell in a training step.
    decoder
        False replaces the expression decoder by an encoder layer (the ablation).
    residual
        Whether the decoder adds the masked gene's own vector; the layer in its place always does.
    tell_scale
        Whether the head is told the value of a single count.
    gene_start
        What gene tokens begin as: ``co-expression`` of the training cells, or ``random`` numbers.
    leaky
        Take scale, bins and total from the whole cell in training, as the text does.
    """

    preset: str = "thesis"
    width: int = 0
    layers: int = 0
    heads: int = 0
    bins: int = 50
    binning: str = "width"
    mask_low: float = 0.1
    mask_high: float = 0.5
    draws: int = 4
    max_genes: int = 1100
    decoder: bool = True
    residual: bool = True
    tell_scale: bool = True
    gene_start: str = "co-expression"
    leaky: bool = False

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"preset is {self.preset!r}", f"choose one of {', '.join(PRESETS)}")
        for key, value in PRESETS[self.preset].items():
            if getattr(self, key) == 0:
                object.__setattr__(self, key, value)
        for key in ("width", "layers", "heads", "bins", "draws"):
            if getattr(self, key) < 1:
                raise UsageError(f"{key} {getattr(self, key)} must be at least 1")
        if self.width % self.heads:
            raise UsageError(f"width {self.width} is no multiple of the {self.heads} heads")
        if self.binning not in BINNINGS:
            raise UsageError(f"binning is {self.binning!r}", f"choose one of {', '.join(BINNINGS)}")
        if self.gene_start not in GENE_STARTS:
            raise UsageError(f"gene_start is {self.gene_start!r}", f"choose one of {', '.join(GENE_STARTS)}")
        if not 0 < self.mask_low <= self.mask_high < 1:
            raise UsageError(f"mask_low {self.mask_low} and mask_high {self.mask_high} are no range within (0, 1)")
        if self.max_genes < 2:
            raise UsageError(f"max_genes {self.max_genes} must be at least 2: one to observe and one to mask")


class Expresser(ScmapModel):
    """The Expression Transformer; see the module for the equations.

    Parameters
    ----------
    config
        Hyperparameters.
    n_genes
        Size of the vocabulary.
    masked_genes
        Mean number of masked genes of a training cell, the constant that divides the loss.
    """

    name: ClassVar[str] = "expresser"
    config_type: ClassVar[type] = ExpresserConfig
    capabilities: ClassVar[frozenset[str]] = frozenset({"embed", "impute", "gene-embedding"})
    told_condition: ClassVar[bool] = False
    has_variance: ClassVar[bool] = False
    most_cells: ClassVar[int] = 64

    def __init__(self, config: ExpresserConfig, *, n_genes: int, masked_genes: float) -> None:
        super().__init__()
        self.config = config
        self.structure = {"n_genes": n_genes, "masked_genes": masked_genes}
        d = config.width
        self.gene_gd = nn.Parameter(torch.randn(n_genes, d) * 0.02)
        self.bin_kd = nn.Parameter(torch.randn(config.bins, d) * 0.02)
        self.encoder = nn.ModuleList(Block(d, config.heads, 4 * d) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        if config.decoder:
            self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d, bias=False)
            self.out = nn.Linear(d, d)
        else:
            self.mask_d = nn.Parameter(torch.randn(d) * 0.02)
            self.last = Block(d, config.heads, 4 * d)
        self.head = nn.Sequential(nn.Linear(d + 1 + config.tell_scale, d), nn.GELU(approximate="tanh"), nn.Linear(d, 1))

    @classmethod
    def create(
        cls, config: ExpresserConfig, n_genes: int, mean_genes: float, mean_value: float, seed: int
    ) -> Expresser:
        """A freshly initialised model.

        Parameters
        ----------
        config
            Hyperparameters.
        n_genes
            Size of the vocabulary.
        mean_genes
            Mean number of genes of a training cell in a step: of each at most ``max_genes``.
        mean_value
            Mean of the expressed values (log1p CP10k), at which predictions start.
        seed
            Seed of the initial weights; the global generator is left as it was.
        """
        masked = mean_genes * (config.mask_low + config.mask_high) / 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # noqa: TID251
            model = cls(config, n_genes=n_genes, masked_genes=masked)
        with torch.no_grad():
            # The inverse of softplus.
            model.last_bias().fill_(float(np.log(np.expm1(max(mean_value, 1e-3)))))
        return model

    def start_genes(self, embedding_gz: np.ndarray) -> None:
        """Let gene tokens begin as an embedding of the genes, at most d wide; where it is zero they stay random.

        Parameters
        ----------
        embedding_gz
            (g, z) any scale.
        """
        known_g = np.flatnonzero(np.abs(embedding_gz).sum(1))
        known = embedding_gz[known_g]
        if known.size:
            table = torch.from_numpy(known * (_START_SIZE / np.sqrt(np.square(known).mean()))).to(self.gene_gd)
            with torch.no_grad():
                self.gene_gd[torch.from_numpy(known_g), : table.shape[1]] = table

    def last_bias(self) -> Tensor:
        """Bias of the head's last layer, which softplus turns into the value a prediction starts at."""
        bias: Tensor = self.head[-1].bias  # type: ignore[assignment]
        return bias

    @classmethod
    def make_store(
        cls,
        counts: sparse.csr_matrix,
        condition_n: np.ndarray,
        dtype: torch.dtype = torch.float32,
        **told: np.ndarray | None,
    ) -> TokenStore:
        """Cells as packed tokens; the model is told nothing else of them."""
        return TokenStore(MemoryRows(counts), condition_n, dtype)

    def compile_parts(self, backend: str = "inductor") -> None:
        """The second half of every layer is compiled; attention stays the fused kernel that it is."""
        for module in self.modules():
            if isinstance(module, Block):
                module.feed.compile(backend=backend, dynamic=True)

    def flops(self, lengths: np.ndarray) -> float:
        """Floating-point operations of a training step on cells with so many genes.

        6 for each weight of a matrix and token that goes through it, and 12 d for each pair of tokens in an attention:
        of the encoder, of the decoder or the layer in its place (in every draw), and of the head. Of masked genes the
        expected number is taken. Tables, norms and the k values of the decoder are not counted.
        """
        config, d, draws = self.config, self.config.width, self.config.draws
        low, high = config.mask_low, config.mask_high
        masked = (low + high) / 2
        masked_pairs = masked - (low * low + low * high + high * high) / 3
        layer, head = 12 * d * d, d * (d + 1 + config.tell_scale) + d
        if config.decoder:
            weights = config.layers * layer + 2 * d * d + draws * masked * (d * d + head)
            pairs = config.layers + draws * masked_pairs
        else:
            weights = (config.layers + draws) * layer + draws * masked * head
            pairs = config.layers + draws
        p_n = lengths.astype(np.float64)
        return float(6 * weights * p_n.sum() + 12 * d * pairs * (p_n**2).sum())

    def encode(self, batch: TokenBatch) -> Tensor:
        """Contextual vectors of the tokens, (t, d)."""
        x_td = self.gene_gd.index_select(0, batch.gene_t)
        for block in self.encoder:
            x_td = block(x_td, batch.edges, batch.sizes)
        normed: Tensor = self.norm(x_td)
        return normed

    def _predict(self, batch: TokenBatch, encoded_td: Tensor, draw: Draw) -> Tensor:
        """(q,) predicted values of the masked genes, log1p CP10k."""
        s, t = draw.mask_st.shape
        gene_q = draw.masked_q.remainder(t)
        bin_o = bins_of(draw, self.config.bins, self.config.binning)
        if self.config.decoder:
            found_qd = self._decode(
                self.query(encoded_td).index_select(0, gene_q),
                self.key(encoded_td).index_select(0, draw.observed_o.remainder(t)),
                bin_o,
                (draw.masked_edges, draw.observed_edges),
                encoded_td.index_select(0, gene_q),
                (draw.masked_sizes, draw.observed_sizes),
            )
        else:
            told_sd = self.mask_d.to(encoded_td.dtype).expand(s * t, -1)
            told_sd = told_sd.index_copy(0, draw.observed_o, self.bin_kd.to(encoded_td.dtype).index_select(0, bin_o))
            edges = torch.cat([batch.edges[:-1] + i * t for i in range(s)] + [batch.edges.new_tensor([s * t])])
            found_sd = self.last(encoded_td.repeat(s, 1) + told_sd, edges, batch.sizes)
            found_qd = found_sd.index_select(0, draw.masked_q)
        return self._value(found_qd, draw, draw.masked_edges.diff())

    def _decode(
        self,
        query_qd: Tensor,
        key_od: Tensor,
        bin_o: Tensor,
        edges: tuple[Tensor, Tensor],
        own_qd: Tensor,
        sizes: tuple[Sizes | None, Sizes | None] = (None, None),
    ) -> Tensor:
        """(q, d): what masked genes find among the values of the observed ones."""
        shape = (-1, self.config.heads, self.config.width // self.config.heads)
        value_od = self.value(self.bin_kd).index_select(0, bin_o)
        mixed_qhe = packed_attention(query_qd.view(shape), key_od.view(shape), value_od.view(shape), *edges, *sizes)
        found_qd: Tensor = self.out(mixed_qhe.flatten(1))
        return found_qd + own_qd if self.config.residual else found_qd

    def _value(self, found_qd: Tensor, draw: Draw, count_c: Tensor) -> Tensor:
        """Equation 4.4 for so many genes of each cell and draw.

        In the type of the weights: bf16 has two or three digits, of a value as of its error.
        """
        told = [draw.largest_sn, draw.single_sn] if self.config.tell_scale else [draw.largest_sn]
        told_qd = torch.cat(
            [found_qd.to(self.dtype), *(x_sn.flatten().repeat_interleave(count_c)[:, None] for x_sn in told)], dim=1
        )
        with torch.autocast(told_qd.device.type, enabled=False):
            return softplus(self.head(told_qd)[:, 0])

    def loss(self, batch: TokenBatch) -> LossOutput:  # type: ignore[override]
        """Equation 4.5 over the masked genes of all draws; parts ``mse`` and ``mae``."""
        noise = batch.noise or Noise(0, batch.n, 0, batch.cell_t.device)
        config = self.config
        mask_st = draw_masks(batch, noise, config.draws, config.mask_low, config.mask_high)
        draw = observe(batch, mask_st, config.leaky)
        predicted_q = self._predict(batch, self.encode(batch), draw)
        error_q = predicted_q - draw.value_st.flatten()[draw.masked_q]
        constant = batch.n * len(draw.mask_st) * self.structure["masked_genes"]
        if not noise.hides:
            # Validation takes all genes of a cell, and its loss is a plain mean.
            constant = float(max(len(error_q), 1))
        total = error_q.square().sum() / constant
        parts = {"mse": total.detach(), "mae": error_q.detach().abs().sum() / constant}
        return LossOutput(total, total.detach(), parts, self.work(batch))

    def work(self, batch: TokenBatch) -> dict[str, float]:
        """Tokens and floating-point operations of a training step on this batch."""
        return {"tokens": float(len(batch.gene_t)), "flops": self.flops(batch.edges.diff().cpu().numpy())}

    @torch.no_grad()
    def embed(self, batch: TokenBatch) -> Posterior:  # type: ignore[override]
        """Mean of a cell's contextual gene vectors (zeros for a cell without genes); it has no variance."""
        encoded_td = self.encode(batch)
        count_n = batch.edges.diff().clamp_min(1)[:, None].to(encoded_td.dtype)
        sum_nd = encoded_td.new_zeros(batch.n, encoded_td.shape[1]).index_add_(0, batch.cell_t, encoded_td)
        return Posterior(sum_nd / count_n, sum_nd[:, :0])

    @torch.no_grad()
    def impute(self, batch: TokenBatch) -> Tensor:
        """Values of the genes that ``asked_t`` marks, given that they are expressed, in the order of the tokens.

        Returns
        -------
        Tensor
            log1p of counts per 10,000 observed counts.
        """
        if batch.asked_t is None:
            raise ValueError("the batch does not say which genes are asked for")
        return self._predict(batch, self.encode(batch), observe(batch, batch.asked_t[None]))

    @torch.no_grad()
    def impute_each(self, batch: TokenBatch, gene_g: Tensor) -> Tensor:
        """Values of candidate genes in every cell, each given that it is expressed, whatever others are asked for.

        A candidate looks at the cell's expressed genes and at itself; they do not look at it.

        Parameters
        ----------
        batch
            Cells; all their genes are observed.
        gene_g
            (g,) int64 candidates.

        Returns
        -------
        Tensor
            (n, g) log1p of counts per 10,000.
        """
        edges = torch.arange(batch.n + 1, device=gene_g.device) * len(gene_g)
        x_td, y_qd = self.gene_gd.index_select(0, batch.gene_t), self.gene_gd.index_select(0, gene_g).repeat(batch.n, 1)
        for block in self.encoder:
            x_td, y_qd = block.beside(x_td, batch.edges, y_qd, edges)  # type: ignore[operator]
        x_td, y_qd = self.norm(x_td), self.norm(y_qd)
        draw = observe(batch, torch.zeros_like(batch.gene_t, dtype=torch.bool)[None])
        bin_t = bins_of(draw, self.config.bins, self.config.binning)
        if self.config.decoder:
            found_qd = self._decode(self.query(y_qd), self.key(x_td), bin_t, (edges, batch.edges), y_qd)
        else:
            told_td = x_td + self.bin_kd.index_select(0, bin_t)
            _, found_qd = self.last.beside(told_td, batch.edges, y_qd + self.mask_d, edges)
        return self._value(found_qd, draw, edges.diff()).view(batch.n, -1)

    def gene_embedding(self) -> np.ndarray:
        """The static gene embeddings T_g (equation 4.1), (g, d) float32."""
        table: np.ndarray = self.gene_gd.detach().float().cpu().numpy()
        return table

    def report(self) -> dict[str, Any]:
        """Sizes and number of weights."""
        return {"parameters": sum(p.numel() for p in self.parameters())}
