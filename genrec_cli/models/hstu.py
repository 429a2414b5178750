"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024, arXiv 2402.17152).

A causal encoder whose attention weights are SiLU of the logits, without softmax. For the normalised input x of a block
(section 3.2, equations 1 to 3; all norms are LayerNorm without weights):

    U, V, Q, K = split(SiLU(W_1 norm(x)))
    A = SiLU(Q K^T + bias) / n                    over the items up to each position
    output = x + W_2 dropout(U * norm(A V))       U, the gate, takes the place of an MLP

n is the setting ``train.max_length``, not the length of the history: the sum over the history keeps its size, so it
grows with the number of items that agree. The bias is that of relative positions, plus, with ``time_bias``, that of the
logarithm of the time between two items; each block has its own, and its heads share it. An item's score is the cosine
of state and item vector over a temperature.

Legend: B histories, N packed items, T longest history, H heads, d head width, D width, J blocks.

Deviations from the authors' code: softmax cross-entropy over the whole catalogue, where they sample 128 or 512 items
(``loss = "sampled"``, which weighs each sampled item by items / sample, theirs by 1); n is the maximum length without
their 11 more; values are as wide as queries, as in all of their settings; biases of W_2 start with zero. Block sizes
are those of a tuned study of Amazon's sets (RecBoard).

The trap: the authors' time between items i and j is t_{i+1} - t_j, so the model reads when the item to be predicted was
bought. On data with days for times, zero then says "the same day as the last item". Here it is t_i - t_j, of known
items; ``target_time`` is the authors', for reproductions: its evaluations know the time of the target, and a list for a
user whose next item is unknown takes it for the time of the last item. Other traps: dividing by the length of each
history makes another model, and with packed rows n must be the same in all of them.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Positive, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Need
from genrec_cli.models.item_model import ItemConfig, ItemModel
from genrec_cli.nn.dropout import Dropout as DropoutLayer
from genrec_cli.nn.packing import Grid, concatenate, take

EPSILON = 1e-6
"""Of all norms, as in the authors' code."""
BUCKETS, BUCKET = 129, 0.301
"""Buckets of times, and the width of one in natural logarithms of seconds."""


class HstuConfig(ItemConfig):
    """HSTU's blocks."""

    width: Count = 64
    """D, the width of embeddings and states."""
    layers: Count = 4
    """HSTU blocks."""
    heads: Count = 2
    """Attention heads."""
    head_width: Count = 4
    """Width of queries, keys, values and gate per head (the authors: 16 to 50 in small models)."""
    dropout: Dropout = 0.5
    """Of the sum of item and position embedding."""
    linear_dropout: Dropout = 0.2
    """Of the gated values of a block, before its output layer."""
    temperature: Positive = 0.07
    """tau of the cosine scores (the authors: .05)."""
    time_bias: bool = False
    """Add a bias for the time between two items to the attention logits. The data must have times."""
    target_time: bool = False
    """Whether the time bias takes the time of the next item for that of the query, as the authors' code does.
    Evaluations then know when the target was bought."""


class Hstu(ItemModel):
    """Interface: DotScorer. Queries and item vectors are normalised, and queries divided by tau."""

    Config: ClassVar[type[Section]] = HstuConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200}}

    def __init__(self, config: HstuConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length)
        self.position = nn.Embedding(max_length, config.width)
        self.dropout = DropoutLayer(config.dropout)
        self.relative = RelativeBias(max_length, config.layers, times=config.time_bias)
        self.blocks = nn.ModuleList(HstuBlock(config, max_length) for _ in range(config.layers))
        nn.init.trunc_normal_(self.item.weight, std=0.02)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.position.weight, std=config.width**-0.5)

    @classmethod
    def needs_of(cls, config: Any) -> frozenset[Need]:
        return super().needs_of(config) | ({"times"} if config.time_bias else set())

    @classmethod
    def check(cls, config: HstuConfig, train: Any, catalog: Catalog | None = None) -> None:
        super().check(config, train, catalog)
        if config.target_time and not config.time_bias:
            problem = "model.target_time = true belongs to the time bias, which is off."
            raise ConfigError(problem, hint="--set model.time_bias=true")

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        packing, query_N = batch.packing, batch.next_time_N if self.config.target_time else batch.time_N
        x_ND = self.item(batch.item_N - 1) * self.config.width**0.5 + self.position(packing.position_N)
        h = self.dropout(x_ND)
        parts = [(grid, self.relative(grid, query_N, batch.time_N)) for grid in packing.parts]
        for depth, block in enumerate(self.blocks):
            h = block(h, [(grid, bias[depth]) for grid, bias in parts], at_M if depth == len(self.blocks) - 1 else None)
        return F.normalize(h, dim=-1, eps=EPSILON) / self.config.temperature

    def item_vectors(self) -> Tensor:
        return F.normalize(super().item_vectors(), dim=-1, eps=EPSILON)


class HstuBlock(nn.Module):
    """One unit: ``x_ND -> x_ND``, or ``x_MD`` at positions ``at_M`` only."""

    def __init__(self, config: HstuConfig, length: int) -> None:
        super().__init__()
        self.heads, self.length, inner = config.heads, length, config.heads * config.head_width
        self.inner = inner
        self.gate_and_qkv = nn.Linear(config.width, 4 * inner, bias=False)
        self.output = nn.Linear(inner, config.width)
        self.dropout = DropoutLayer(config.linear_dropout)
        nn.init.normal_(self.gate_and_qkv.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_ND: Tensor, parts: list[tuple[Grid, Tensor]], at_M: Tensor | None = None) -> Tensor:
        """``parts``: the grids of attention and their biases."""
        inward_ND = F.silu(self.gate_and_qkv(_norm(x_ND)))
        gate, qkv_ND = inward_ND.tensor_split([self.inner], dim=-1)
        mixed = concatenate([self.mix(grid, qkv_ND, bias) for grid, bias in parts])
        if at_M is not None:
            x_ND, gate, mixed = take(x_ND, at_M), take(gate, at_M), take(mixed, at_M)
        return x_ND + self.output(self.dropout(gate * _norm(mixed)))

    def mix(self, grid: Grid, qkv_ND: Tensor, bias_B1TT: Tensor) -> Tensor:
        """``A V`` of the items of a grid."""
        q_BHTd, k_BHTd, v_BHTd = grid.sides(qkv_ND, self.heads, 3)
        return grid.join(pointwise_attention(q_BHTd, k_BHTd, v_BHTd, bias_B1TT, self.length))


class RelativeBias(nn.Module):
    """The attention biases of all J blocks: one per distance in positions, and one per bucket of times."""

    def __init__(self, positions: int, blocks: int, *, times: bool) -> None:
        super().__init__()
        self.position = nn.Embedding(positions, blocks)
        self.time = nn.Embedding(BUCKETS, blocks) if times else None
        for table in filter(None, (self.position, self.time)):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, grid: Grid, query_N: Tensor | None, key_N: Tensor | None) -> tuple[Tensor, ...]:
        """``bias_B1TT`` (queries x keys) per block, for the keys up to each query, from the times of queries and keys;
        B is 1 without times."""
        place_T = torch.arange(grid.longest, device=grid.length_B.device)
        bias_BTTJ = self.position((place_T[:, None] - place_T).clamp_min(0))[None]
        if self.time is not None:
            assert query_N is not None and key_N is not None, "the time bias needs times"
            bias_BTTJ = bias_BTTJ + self.time(bucket(grid.pad(query_N)[:, :, None] - grid.pad(key_N)[:, None]))
        return bias_BTTJ.permute(3, 0, 1, 2)[:, :, None].contiguous().unbind()


def bucket(seconds: Tensor) -> Tensor:
    """The bucket of a time: ``floor(ln(max(1, |dt|)) / .301)``, at most the last one."""
    return (seconds.abs().clamp_min(1).float().log() / BUCKET).long().clamp_max(BUCKETS - 1)


def pointwise_attention(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, bias_B1TT: Tensor, length: int) -> Tensor:
    """``mixed_BHTd``: ``A V`` with ``A = SiLU(Q K^T + bias) / length`` over the keys up to each query. Padding is on
    the right, so no real query sees it."""
    logit_BHTT = torch.matmul(q_BHTd, k_BHTd.transpose(-1, -2)).add_(bias_B1TT)
    return torch.matmul(F.silu(logit_BHTT).tril_(), v_BHTd) / length


def _norm(x_XD: Tensor) -> Tensor:
    return F.layer_norm(x_XD, x_XD.shape[-1:], eps=EPSILON)
