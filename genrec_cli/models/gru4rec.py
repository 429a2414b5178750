"""GRU4Rec: session-based recommendation with a recurrent network (Hidasi et al., ICLR 2016, arXiv 1511.06939).

A gated recurrent unit reads the item embeddings; an item's score is the dot product of the projected state with its
embedding, plus a bias per item::

    h_t = GRU(e_t, h_{t-1})        score(i) = e_i . (W h_t) + b_i

Legend: N packed items, M positions with a target, T longest history, E embedding width, H hidden width.

Deviations from the authors' code: every user's history is one sequence, all positions are learned at once, and the
gradient goes back through the whole history; the authors run sessions side by side and cut the gradient at every step.
Softmax cross-entropy over the whole catalogue by default; ``loss = "bpr_max"`` is that of their second paper (Hidasi
and Karatzoglou, CIKM 2018). Negatives are uniform in place of popular, and each position has its own;
``shared_negatives = true`` shares them in the batch, as the authors do. AdamW.

The trap: copies with one negative and BCE reach a third of the accuracy (the published rows of GRU4Rec on Amazon's
sets); the loss is what counts.
"""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from genrec_cli.config import Count, Dropout, Section
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.item_model import ItemConfig, ItemModel
from genrec_cli.nn.dropout import Dropout as DropoutLayer
from genrec_cli.nn.gru import packed_gru
from genrec_cli.nn.packing import Packing, take


class Gru4RecConfig(ItemConfig):
    """GRU4Rec's recurrent layers."""

    width: Count = 64
    """E, the width of item embeddings."""
    hidden: Count = 128
    """H, the width of the recurrent state."""
    layers: Count = 1
    """Recurrent layers."""
    dropout: Dropout = 0.3
    """Of the item embeddings and of the projected states."""
    bias: bool = True
    """Whether each item has a bias."""


class Gru4Rec(ItemModel):
    """Interface: DotScorer."""

    Config: ClassVar[type[Section]] = Gru4RecConfig
    defaults: ClassVar[dict[str, dict[str, Any]]] = {"train": {"lr": 1e-3, "warmup_steps": 200, "batch_size": 128}}

    def __init__(self, config: Gru4RecConfig, catalog: Catalog, *, max_length: int) -> None:
        super().__init__(config, catalog, max_length=max_length, bias=config.bias)
        self.gru = nn.GRU(config.width, config.hidden, config.layers, batch_first=True)
        self.projection = nn.Linear(config.hidden, config.width)
        self.dropout = DropoutLayer(config.dropout)
        nn.init.normal_(cast(nn.Embedding, self.item).weight, std=config.width**-0.5)

    def states(self, batch: Batch, at_M: Tensor) -> Tensor:
        h_NH = self._read(self.dropout(self.item(batch.item_N - 1)), batch.packing)
        return self.beside_one(self.dropout(self.projection(take(h_NH, at_M))))

    def _read(self, e_NE: Tensor, packing: Packing) -> Tensor:
        """``h_NH``. On a CPU a step of the recurrence has the histories that are long enough, on a GPU all of them, as
        few rows take as long there, and no size goes to the host."""
        if e_NE.device.type != "cpu" or torch.compiler.is_compiling():
            grid = packing.grid  # padding is on the right, so no state of an item depends on it
            return grid.pack(self.gru(grid.pad(e_NE))[0])
        return packed_gru(self.gru, e_NE, packing)
