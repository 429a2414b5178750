"""TIGER: its stacks against transformers' T5, cached against uncached, and what it may not see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.models.tiger import Tiger, TigerConfig
from genrec_cli.nn.packing import Packing
from genrec_cli.nn.t5 import RelativeBias

SIZES = {"width": 16, "layers": 2, "heads": 3, "head_width": 4, "inner": 24, "dropout": 0.0, "attention_dropout": 0.0}


OURS = {"pooled": True, "last_state": True, "classifier": "cosine"}


def build(*, user_tokens: int = 5, max_length: int = 8, causal: bool = False, ours: bool = False, **more) -> Tiger:
    torch.manual_seed(0)
    config = TigerConfig(user_tokens=user_tokens, causal=causal, **SIZES, **(OURS if ours else {}))
    model = Tiger(config, make_catalog(**more), max_length=max_length)
    return model.eval()


@pytest.fixture
def batch(histories):
    user, at = histories.targets("test")
    return next(eval_batches(histories, user, at, max_length=8, batch_size=99)).batch


# ---- packing of codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[3, 1, 4], [2, 2], [1, 2, 2, 3, 3, 9]])
@pytest.mark.parametrize("prefix", [0, 1])
def test_spreading_a_packing_is_packing_the_longer_sequences(lengths, prefix):
    """On the device, from the packing of items, what the host would make of the lengths in codes."""
    found = Packing.of(np.array(lengths)).expand(4, prefix=prefix)
    expected = Packing.of(np.array(lengths) * 4 + prefix)
    for name in ("length_B", "position_N", "sequence_N", "last_B"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    grids = [(found.grid, expected.grid)]
    if len(found.parts) == len(expected.parts):
        grids += zip(found.parts, expected.parts, strict=True)
    for one, other in grids:
        assert (one.begin, one.end, one.longest, one.full) == (other.begin, other.end, other.longest, other.full)
        assert all(torch.equal(getattr(one, n), getattr(other, n)) for n in ("length_B", "cell_N", "token_C"))


# ---- transformers' T5 ----------------------------------------------------------------------------------


def theirs():
    """A T5 with random weights and one vocabulary of 30 tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=4 * 8 + 1 + 5,
            d_model=16,
            d_kv=4,
            d_ff=24,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=3,
            dropout_rate=0.0,
            feed_forward_proj="relu",
            decoder_start_token_id=32,
            pad_token_id=0,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


@torch.no_grad()
def copy_weights(ours: Tiger, twin) -> None:
    ours.codes.table.weight.copy_(twin.shared.weight)
    for stack, other in ((ours.encoder, twin.encoder), (ours.decoder, twin.decoder)):
        table = other.block[0].layer[0].SelfAttention.relative_attention_bias
        stack.bias.table.weight.copy_(table.weight)
        stack.norm.weight.copy_(other.final_layer_norm.weight)
        for block, parts in zip(stack.blocks, other.block, strict=True):
            attentions = [(block.self_attention, block.norm_self, parts.layer[0], "SelfAttention")]
            if stack is ours.decoder:
                attentions.append((block.cross_attention, block.norm_cross, parts.layer[1], "EncDecAttention"))
            for attention, norm, layer, name in attentions:
                source = getattr(layer, name)
                norm.weight.copy_(layer.layer_norm.weight)
                attention.query.weight.copy_(source.q.weight)
                attention.memory.weight.copy_(torch.cat([source.k.weight, source.v.weight]))
                attention.output.weight.copy_(source.o.weight)
            feed = parts.layer[-1]
            block.norm_feed.weight.copy_(feed.layer_norm.weight)
            block.feed.inward.weight.copy_(feed.DenseReluDense.wi.weight)
            block.feed.outward.weight.copy_(feed.DenseReluDense.wo.weight)


@pytest.mark.parametrize("user_tokens", [0, 5])
def test_the_stacks_equal_t5(batch, user_tokens):
    """Encoder, decoder and logits: the same numbers from packed histories as from T5's padded ones."""
    twin, ours = theirs(), build()
    copy_weights(ours, twin)
    ours.config = ours.config.model_copy(update={"user_tokens": user_tokens})
    length_B, rows = batch.packing.length_B, batch.packing.sequences
    prefix = int(user_tokens > 0)
    padded = torch.zeros(rows, int(length_B.max()) * 4 + prefix, dtype=torch.long)
    real = torch.arange(padded.shape[1]) < length_B[:, None] * 4 + prefix
    for b in range(rows):
        items = batch.item_N[batch.packing.sequence_N == b]
        tokens = (ours.codes_of(items) + torch.arange(4) * 8).flatten()
        padded[b, prefix : prefix + len(tokens)] = tokens
        if prefix:
            padded[b, 0] = 33 + batch.user_B[b] % 5
    target_BK = ours.codes_of(torch.arange(1, rows + 1))
    begin_BK = torch.cat([torch.full((rows, 1), 32), (target_BK + torch.arange(4) * 8)[:, :-1]], dim=1)
    seen = {}
    ours.encoder.register_forward_hook(lambda module, given, found: seen.update(encoder=found, packing=given[1]))
    with torch.no_grad():
        expected = twin(
            input_ids=padded, attention_mask=real.long(), decoder_input_ids=begin_BK, output_hidden_states=True
        )
        h_BKD = ours.states(*ours.read(batch), target_BK)
        logit_KBV = ours.logits(h_BKD.transpose(0, 1))
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(seen["encoder"], expected.encoder_last_hidden_state[real], **close)
    torch.testing.assert_close(h_BKD, expected.decoder_hidden_states[-1], **close)
    for k in range(4):
        torch.testing.assert_close(logit_KBV[k], expected.logits[:, k, k * 8 : k * 8 + 8], **close)


@pytest.mark.parametrize("both_sides", [True, False])
def test_buckets_equal_t5s(both_sides):
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(ahead, bidirectional=both_sides)
    assert torch.equal(RelativeBias(2, both_sides=both_sides).buckets(ahead), expected)


# ---- cached = uncached ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("ours", [False, True])
def test_cached_steps_equal_teacher_forcing_whatever_the_beams(batch, ours):
    """Beams branch, die and swap places at each step; each must score as its whole prefix does at once."""
    model = build(ours=ours)
    if ours:
        torch.nn.init.normal_(model.classifier.linear.weight, std=0.3)
    random = torch.Generator().manual_seed(1)
    rows, prefixes, memory = batch.packing.sequences, model.prefixes(batch), model.read(batch)
    found = prefixes.first()
    so_far = torch.zeros(rows, 1, 4, dtype=torch.long)
    for digit, beams in enumerate((3, 7, 2)):
        parent_BM = torch.randint(0, found.shape[1], (rows, beams), generator=random)
        code_BM = torch.randint(0, 8, (rows, beams), generator=random)
        found = prefixes.extend(parent_BM, code_BM)
        so_far = so_far[torch.arange(rows)[:, None], parent_BM].clone()
        so_far[..., digit] = code_BM
        for beam in range(beams):
            h_KBD = model.states(*memory, so_far[:, beam]).transpose(0, 1)
            expected = model.logits(h_KBD)[digit + 1].log_softmax(-1)
            torch.testing.assert_close(found[:, beam], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_step_works_on_one_position_a_beam(batch):
    """What linear layers are given: the history once, then one token a beam."""
    model = build()
    given = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, x, y, name=name: given.append((name, x[0].numel() // x[0].shape[-1]))
            )
    rows = batch.packing.sequences
    prefixes = model.prefixes(batch)
    tokens = int(batch.packing.length_B.sum()) * 4 + rows
    assert {positions for _, positions in given} == {tokens}, "codes and user tokens, no padding"
    assert all(name.startswith("encoder") or name.endswith("cross_attention.memory") for name, _ in given)
    given.clear()
    prefixes.first()
    for beams in (5, 3):
        assert not any(name.startswith("encoder") or name.endswith("cross_attention.memory") for name, _ in given)
        given.clear()
        prefixes.extend(torch.zeros(rows, beams, dtype=torch.long), torch.zeros(rows, beams, dtype=torch.long))
        assert {positions for _, positions in given} == {rows * beams}


@torch.no_grad()
def test_target_loss_is_the_loss_of_training(histories):
    model = build()
    rows = Rows.of(histories, max_length=8, windows="each")
    batch = rows.batch(histories, np.arange(len(rows)))
    loss = model.losses(batch)["next"]
    loss_B = model.target_loss(batch, batch.target_N[batch.learn_M])
    torch.testing.assert_close(loss_B.mean(), loss.sum / loss.count)
    model.config = model.config.model_copy(update={"label_smoothing": 0.1})
    target_BK = model.codes_of(batch.target_N[batch.learn_M])
    logit_KBV = model.logits(model.states(*model.read(batch), target_BK).transpose(0, 1))
    smooth = torch.nn.functional.cross_entropy(logit_KBV.flatten(0, 1), target_BK.t().flatten(), label_smoothing=0.1)
    smoothed = model.losses(batch)["next"]
    torch.testing.assert_close(smoothed.sum / smoothed.count, smooth)
    torch.testing.assert_close(model.target_loss(batch, batch.target_N[batch.learn_M]), loss_B)


def test_gradients_of_a_batch_are_the_sum_of_its_rows(histories):
    """Padding of the grids must neither get nor give a gradient; alone, a row has none."""
    model = build()
    rows = Rows.of(histories, max_length=8, windows="each")

    def gradients(numbers) -> list[torch.Tensor]:
        model.zero_grad()
        for chosen in numbers:
            model.losses(rows.batch(histories, chosen))["next"].sum.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    everything = np.arange(len(rows))
    for one, two in zip(gradients([everything]), gradients(everything[:, None]), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


# ---- all targets of a history in one pass --------------------------------------------------------------


@pytest.mark.parametrize("user_tokens, ours", [(0, False), (5, False), (0, True), (5, True)])
@pytest.mark.parametrize("digits", [1, 4])
@pytest.mark.parametrize("lengths, grids", [([5, 9, 3, 14, 2], 1), ([9, 9, 9], 1), ([4] * 12 + [14], 2)])
def test_causal_rows_of_many_targets_learn_the_same_as_rows_of_one(user_tokens, ours, digits, lengths, grids):
    """Loss and gradients, with histories longer than the model reads, on one grid and on two, full and padded."""
    histories, found = make_histories(lengths, 30), []
    model = build(user_tokens=user_tokens, causal=True, max_length=6, digits=digits, ours=ours)
    for windows in ("each", "sliding"):
        model.zero_grad()
        rows = Rows.of(histories, max_length=6, windows=windows)
        batch = rows.batch(histories, np.arange(len(rows)))
        loss = model.losses(batch)["next"]
        loss.sum.backward()
        found.append((loss.count, loss.sum, *(parameter.grad.clone() for parameter in model.parameters())))
    assert len(batch.packing.parts) == grids
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_causal_states_are_those_of_the_history_so_far(batch):
    """An item's codes see each other both ways, and nothing later: a longer history leaves them as they were."""
    model = build(causal=True)
    length_B = batch.packing.length_B
    cut = Packing.of(np.maximum(length_B.numpy() - 1, 1))
    kept_N = batch.packing.position_N < cut.length_B[batch.packing.sequence_N]
    h_XD, packing = model.encode(batch)
    shorter_XD, shorter = model.encode(replace(batch, packing=cut, item_N=batch.item_N[kept_N]))
    kept_X = packing.position_N < shorter.length_B[packing.sequence_N]
    torch.testing.assert_close(h_XD[kept_X], shorter_XD, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(build().encode(batch)[0], h_XD)
    codes_RK = model.code_RK.clone()
    model.code_RK[:, -1] = (codes_RK[:, -1] + 1) % 8
    first_X = packing.position_N == 1  # the first code of the first item, behind the user's token
    assert not torch.isclose(model.encode(batch)[0][first_X], h_XD[first_X]).all(-1).any()


@torch.no_grad()
@pytest.mark.parametrize("user_tokens", [0, 5])
def test_a_pooled_item_is_one_token_and_the_start_is_the_state_of_the_last(batch, user_tokens):
    model = build(ours=True, causal=True, user_tokens=user_tokens)
    h_XD, packing = model.encode(batch)
    assert torch.equal(packing.length_B, batch.packing.length_B + (user_tokens > 0))
    start_B1D = model.start(h_XD, batch, batch.packing.last_B)
    assert torch.equal(start_B1D[:, 0], h_XD[packing.last_B])


# ---- rows and leaks ------------------------------------------------------------------------------------


def test_each_pair_of_history_and_next_item_is_one_row():
    histories = make_histories([5, 9, 3, 14, 2], 30)
    rows = Rows.of(histories, max_length=4, windows="each")
    found = set()
    for r in range(len(rows)):
        batch = rows.batch(histories, np.array([r]))
        assert batch.learn_M.tolist() == batch.packing.last_B.tolist()
        assert (batch.target_N[:-1] == 0).all()
        found.add((int(batch.user_B[0]), tuple(batch.item_N.tolist()), int(batch.target_N[-1])))
    expected = set()
    for u in range(histories.users):
        items = histories.item[histories.offset[u] :][: histories.train_end[u]].tolist()
        expected |= {(u, tuple(items[max(at - 4, 0) : at]), items[at]) for at in range(1, len(items))}
    assert found == expected and len(rows) == len(expected)


def test_the_target_does_not_leak_into_its_own_prediction(batch):
    """Digit k is predicted from the history and digits before k alone."""
    model = build()
    target_BK = model.codes_of(torch.arange(1, batch.packing.sequences + 1))
    memory = model.read(batch)
    with torch.no_grad():
        before = model.logits(model.states(*memory, target_BK).transpose(0, 1))
        for digit in range(4):
            other_BK = target_BK.clone()
            other_BK[:, digit] = (other_BK[:, digit] + 1) % 8
            after = model.logits(model.states(*memory, other_BK).transpose(0, 1))
            assert torch.equal(before[: digit + 1], after[: digit + 1])
            assert digit == 3 or not torch.allclose(before[digit + 1], after[digit + 1])


@torch.no_grad()
def test_user_tokens_tell_users_apart_and_can_be_left_out(batch):
    target_B = torch.ones_like(batch.user_B)
    other = replace(batch, user_B=batch.user_B + 1)
    model = build()
    assert not torch.allclose(model.target_loss(batch, target_B), model.target_loss(other, target_B))
    torch.testing.assert_close(
        model.target_loss(batch, target_B), model.target_loss(replace(batch, user_B=batch.user_B + 5), target_B)
    )
    without = build(user_tokens=0)
    assert torch.equal(without.target_loss(batch, target_B), without.target_loss(other, target_B))


@torch.no_grad()
def test_a_user_who_is_not_in_the_data_has_the_mean_of_all_user_tokens(batch):
    model = build().eval()
    users, first = model.config.user_tokens, model.codes.free + 1
    target_B = torch.ones_like(batch.user_B)
    stranger = model.target_loss(replace(batch, user_B=torch.full_like(batch.user_B, -1)), target_B)
    model.codes.table.weight[first : first + users] = model.codes.table.weight[first : first + users].mean(0)
    known = model.target_loss(batch, target_B)
    torch.testing.assert_close(stranger, known)


def test_rows_of_several_targets_are_refused():
    with pytest.raises(ConfigError, match="sees later items"):
        Tiger.check(TigerConfig(), TrainConfig(windows="sliding"))
    Tiger.check(TigerConfig(causal=True), TrainConfig(windows="sliding"))


def test_codes_of_unequal_length_are_refused():
    with pytest.raises(ConfigError, match="fewer"):
        Tiger.check(TigerConfig(), TrainConfig(windows="each"), make_catalog(padded=True))
    with pytest.raises(ConfigError, match="words of texts"):
        Tiger.check(TigerConfig(), TrainConfig(windows="each"), make_catalog(shared=True))


# ---- the dense side of items ----------------------------------------------------------------------------


@pytest.mark.parametrize("user_tokens", [0, 5])
@torch.no_grad()
def test_the_dense_side_is_added_to_items_and_not_to_user_tokens(batch, user_tokens, monkeypatch):
    torch.manual_seed(0)
    config = TigerConfig(user_tokens=user_tokens, pooled=True, free_vectors=True, **SIZES)
    model = Tiger(config, make_catalog(), max_length=8).eval()
    monkeypatch.setattr(model.encoder, "forward", lambda x_XD, packing, visible_TT: x_XD)
    before_XD, packing = model.encode(batch)
    torch.nn.init.normal_(model.dense.free.weight)
    added_XD = model.encode(batch)[0] - before_XD
    item_X = packing.position_N >= (1 if user_tokens else 0)
    torch.testing.assert_close(added_XD[item_X], model.dense(batch.item_N))
    assert not added_XD[~item_X].any()


def test_the_dense_side_needs_pooled_items_and_its_vectors():
    train = TrainConfig(windows="each")
    with pytest.raises(ConfigError, match="dense side"):
        Tiger.check(TigerConfig(free_vectors=True), train)
    assert Tiger.needs_of(TigerConfig(pooled=True, free_vectors=True)) == {"codes"}
    assert Tiger.needs_of(TigerConfig(pooled=True, free_vectors=True, graph_edges=3)) == {"codes", "vectors"}
