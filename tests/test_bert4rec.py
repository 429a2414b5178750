"""BERT4Rec: its encoder against transformers' BERT, the head and the masked loss by hand, and what a row learns."""

import pytest
import torch
from conftest import make_catalog, recent_batch
from twins import copy_bert

from genrec_cli.config import validate
from genrec_cli.models.bert4rec import Bert4Rec, Bert4RecConfig

SIZES = {"width": 8, "layers": 2, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}


def build(**settings) -> Bert4Rec:
    torch.manual_seed(0)
    model = Bert4Rec(validate(Bert4RecConfig, "model", SIZES | settings), make_catalog(), max_length=8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("left", [False, True])
@torch.no_grad()
def test_states_are_those_of_transformers_bert(left: bool) -> None:
    """From rows with padding on one side, masked places, and [MASK] behind the last item; positions from the first."""
    transformers = pytest.importorskip("transformers")
    ours, data = build(), recent_batch([5, 12, 4, 9])
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-5}
    config = transformers.BertConfig(vocab_size=31, max_position_embeddings=9, type_vocab_size=1, **sizes, **quiet)
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    theirs.embeddings.word_embeddings.weight.copy_(ours.item.weight * 8**0.5)  # ours are multiplied at the input
    theirs.embeddings.token_type_embeddings.weight.zero_()
    copy_bert(ours.backbone, theirs)
    mask_N = torch.rand(len(data.item_N), generator=torch.Generator().manual_seed(0)) < 0.4
    length_B = data.packing.length_B.tolist()
    shape = len(length_B), max(length_B) + 1
    token_BT, position_BT, real_BT = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    chosen_BT = torch.zeros(shape, dtype=torch.bool)
    for row, length in enumerate(length_B):
        inside_N, begin = data.packing.sequence_N == row, shape[1] - length - 1 if left else 0
        place = slice(begin, begin + length + 1)
        item_N = (data.item_N[inside_N] - 1).masked_fill(mask_N[inside_N], 30)
        token_BT[row, place] = torch.cat([item_N, torch.tensor([30])])
        position_BT[row, place], real_BT[row, place] = torch.arange(length + 1), 1
        chosen_BT[row, place] = torch.cat([mask_N[inside_N], torch.tensor([False])])
    states_BTD = theirs(token_BT, attention_mask=real_BT, position_ids=position_BT).last_hidden_state
    last_BD = states_BTD[real_BT.bool() & (position_BT == torch.tensor(length_B)[:, None])]
    expected = ours.norm(torch.nn.functional.gelu(ours.dense(torch.cat([states_BTD[chosen_BT], last_BD]))))
    found = ours.encode(data, mask_N, mask_N.nonzero()[:, 0])[:, :-1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_losses_are_those_of_masked_places_and_of_the_last_item() -> None:
    model, data = build(), recent_batch([5, 12, 4, 9])
    mask = torch.rand(len(data.item_N), 1, generator=torch.Generator().manual_seed(0)) < 0.4
    losses = model.losses(data, mask)
    at_M = mask[:, 0].nonzero()[:, 0]
    h_MD = model.encode(data, mask[:, 0], at_M)
    logp_MI = (h_MD[:, :-1] @ model.item.weight[:30].t() + model.bias).log_softmax(-1)
    items = torch.cat([data.item_N[at_M], data.target_N[data.packing.last_B]]) - 1
    nll_M = -logp_MI.gather(1, items[:, None])[:, 0]
    torch.testing.assert_close(losses["mask"].sum, nll_M[: len(at_M)].sum(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(losses["next"].sum, nll_M[len(at_M) :].sum(), atol=1e-4, rtol=1e-5)
    assert {name: int(count) for name, count in model.counts(data, mask).items()} == {
        name: int(loss.count) for name, loss in losses.items()
    }


@torch.no_grad()
def test_a_full_history_keeps_its_first_item() -> None:
    """[MASK] has a position of its own after ``max_length`` items."""
    model = build()
    data = recent_batch([12])
    assert data.packing.length_B.tolist() == [8]
    before = model.queries(data)
    data.item_N[0] = data.item_N[0] % 30 + 1
    assert not torch.allclose(model.queries(data), before)
