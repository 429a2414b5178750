"""Models to test the contract suite: a correct BERT4Rec, one that masks nothing, and one that sees later items."""

import torch

from genrec_cli.models.item_model import ItemConfig, ItemModel
from genrec_cli.nn.transformer import Transformer, initialise


class BertConfig(ItemConfig):
    """Sizes of the probe."""

    width: int = 16
    layers: int = 1
    heads: int = 2
    inner: int = 32
    activation: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0


class BlindBert(ItemModel):
    """BERT4Rec: masked items of the history are predicted from both sides; [MASK] after the history at inference."""

    Config = BertConfig
    masking = "random"
    causal = False

    def __init__(self, config, catalog, *, max_length):
        super().__init__(config, catalog, max_length=max_length, extra=1)
        self.backbone = Transformer(config, max_length + 1, causal=False)
        initialise(self)

    def encode(self, batch, mask_N, at_X):
        """States at some positions, where [MASK] is after each history."""
        packing = batch.packing.expand(suffix=1)
        token_X = torch.full_like(packing.sequence_N, self.items)
        token_X[self.places(batch)] = self.apply_mask(batch.item_N - 1, mask_N)
        return self.backbone(self.item(token_X), packing, packing.last_B if at_X is None else at_X)

    def places(self, batch):
        return torch.arange(len(batch.item_N)) + batch.packing.sequence_N

    def apply_mask(self, token_N, mask_N):
        return torch.where(mask_N, self.items, token_N)

    def states(self, batch, at_M):
        """At ``last_B`` alone: the state of [MASK]."""
        return self.encode(batch, torch.zeros_like(batch.item_N, dtype=torch.bool), None)

    def losses(self, batch, mask=None):
        target_B = batch.target_N[batch.packing.last_B]
        if mask is None:
            return {"next": self.item_loss(self.states(batch, batch.packing.last_B), target_B)}
        at_M = mask[:, 0].nonzero()[:, 0]
        last_B = batch.packing.expand(suffix=1).last_B
        h_XD = self.encode(batch, mask[:, 0], torch.cat([self.places(batch)[at_M], last_B]))
        masked, following = h_XD.split([len(at_M), len(last_B)])
        return {"next": self.item_loss(following, target_B), "mask": self.item_loss(masked, batch.item_N[at_M])}

    def counts(self, batch, mask=None):
        counts = {"next": (batch.target_N[batch.packing.last_B] > 0).sum()}
        return counts if mask is None else counts | {"mask": mask.sum()}


class NoMaskBert(BlindBert):
    """The same, but it masks nothing, so it sees what it predicts."""

    def apply_mask(self, token_N, mask_N):
        return token_N


class LooksAhead(ItemModel):
    """Declares itself causal and reads one item ahead."""

    def states(self, batch, at_M):
        ahead_N = batch.item_N.roll(-1)
        return (self.item(batch.item_N - 1) + self.item(ahead_N - 1))[at_M]
