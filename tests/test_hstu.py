"""HSTU: a block by hand, the biases by loops, the length that divides, and the times."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.data.sequences import Rows, eval_batches
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.models.hstu import Hstu, HstuBlock, HstuConfig, RelativeBias, bucket, pointwise_attention
from genrec_cli.nn.packing import Packing

DAY = 86_400


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def by_hand(block: HstuBlock, x_TD: np.ndarray, bias_TT: np.ndarray) -> np.ndarray:
    """Equations 1 to 3 for one history, head by head and position by position."""
    heads, inner = block.heads, block.inner
    u, q, k, v = np.split(silu(norm(x_TD) @ block.gate_and_qkv.weight.detach().double().numpy().T), 4, axis=1)
    mixed = np.zeros_like(v)
    for head in range(heads):
        columns = slice(head * inner // heads, (head + 1) * inner // heads)
        for i in range(len(x_TD)):
            for j in range(i + 1):
                weight = silu(q[i, columns] @ k[j, columns] + bias_TT[i, j]) / block.length
                mixed[i, columns] += weight * v[j, columns]
    output = block.output.weight.detach().double().numpy(), block.output.bias.detach().double().numpy()
    return x_TD + (u * norm(mixed)) @ output[0].T + output[1]


def test_a_block_by_hand_with_a_padded_row():
    torch.manual_seed(0)
    block = HstuBlock(HstuConfig(width=6, heads=2, head_width=3, linear_dropout=0.0), 4).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    packing = Packing.of(np.array([2, 4]))
    assert not packing.grid.full
    x_ND, bias_TT = torch.randn(6, 6), torch.randn(4, 4)
    found_ND = block(x_ND, [(packing.grid, bias_TT[None, None])])
    x, bias = x_ND.double().numpy(), bias_TT.double().numpy()
    expected = np.concatenate([by_hand(block, x[:2], bias[:2, :2]), by_hand(block, x[2:], bias)])
    np.testing.assert_allclose(found_ND.detach().numpy(), expected, atol=2e-5)
    some = block(x_ND, [(packing.grid, bias_TT[None, None])], torch.tensor([5, 1]))
    torch.testing.assert_close(some, found_ND[[5, 1]])


@torch.no_grad()
def test_states_are_those_of_blocks_by_hand() -> None:
    """From sqrt(D) times the item vectors, plus positions."""
    model, histories = hstu(), make_histories([6, 9], 30)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    batch = Rows.of(histories, max_length=8, windows="sliding").batch(histories, np.arange(2))
    expected = []
    for item_T in batch.item_N.split(batch.packing.length_B.tolist()):
        place_T = torch.arange(len(item_T))
        width = model.config.width
        x_TD = (model.item.weight[item_T - 1] * width**0.5 + model.position.weight[place_T]).double().numpy()
        distance_TT = (place_T[:, None] - place_T).clamp_min(0)
        for depth, block in enumerate(model.blocks):
            x_TD = by_hand(block, x_TD, model.relative.position.weight[distance_TT, depth].double().numpy())
        expected.append(torch.from_numpy(x_TD))
    found = model.states(batch, torch.arange(len(batch.item_N)))
    cosine = torch.nn.functional.cosine_similarity(found.double(), torch.cat(expected))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-5, rtol=0)


def test_the_biases_are_those_of_loops():
    torch.manual_seed(0)
    bias, packing = RelativeBias(5, 3, times=True), Packing.of(np.array([3, 5]))
    for parameter in bias.parameters():
        torch.nn.init.normal_(parameter)
    time_N = torch.tensor([0, 0, 5 * DAY, 10, 12, DAY, DAY, 4000 * DAY]) + 1_400_000_000
    found = bias(packing.grid, time_N, time_N)
    for row, begin, length in ((0, 0, 3), (1, 3, 5)):
        for i in range(length):
            for j in range(i + 1):
                seconds = abs(int(time_N[begin + i] - time_N[begin + j]))
                place = min(int(np.floor(np.log(max(1, seconds)) / 0.301)), 128)
                for depth in range(3):
                    expected = bias.position.weight[i - j, depth] + bias.time.weight[place, depth]
                    assert found[depth][row, 0, i, j].item() == pytest.approx(expected.item(), abs=1e-6)


def test_buckets_of_days():
    seconds = torch.tensor([0, 1, -DAY, DAY, 3650 * DAY, 10**17])
    assert bucket(seconds).tolist() == [0, 0, 37, 37, 65, 128]


def test_the_configured_length_divides_not_that_of_the_history():
    (q, k, v), bias = torch.randn(3, 2, 2, 3, 4), torch.randn(1, 1, 3, 3)
    once = pointwise_attention(q, k, v, bias, 10)
    torch.testing.assert_close(pointwise_attention(q, k, v, bias, 20), once / 2)
    assert [block.length for block in hstu(max_length=50).blocks] == [50, 50]


def hstu(max_length: int = 8, **settings: object) -> Hstu:
    torch.manual_seed(0)
    config = HstuConfig(width=8, layers=2, heads=2, head_width=4, dropout=0.0, linear_dropout=0.0, **settings)
    return Hstu(config, make_catalog(), max_length=max_length).eval()


def test_scores_are_cosines_over_the_temperature():
    model, histories = hstu(temperature=0.1), make_histories([6, 9], 30)
    batch = Rows.of(histories, max_length=8, windows="sliding").batch(histories, np.arange(2))
    query_BD, vector_ID = model.queries(batch), model.item_vectors()
    torch.testing.assert_close(query_BD.norm(dim=1), torch.full((2,), 10.0))
    torch.testing.assert_close(vector_ID.norm(dim=1), torch.ones(30))
    assert torch.equal(model.item_scores(batch), query_BD @ vector_ID.t())


def test_times_matter_only_with_the_time_bias():
    histories = make_histories([6, 9], 30)
    batch = Rows.of(histories, max_length=8, windows="sliding").batch(histories, np.arange(2))
    moved = replace(batch, time_N=batch.time_N + DAY)
    other = replace(batch, time_N=batch.time_N * 3)
    for on in (False, True):
        model = hstu(time_bias=on)
        if on:
            torch.nn.init.normal_(model.relative.time.weight)
        scores = model.item_scores(batch)
        torch.testing.assert_close(model.item_scores(moved), scores)
        assert torch.allclose(model.item_scores(other), scores) != on
        assert Hstu.needs_of(model.config) == ({"times"} if on else set())


def test_the_time_of_the_target_is_read_only_on_demand():
    histories = make_histories([6, 9], 30)
    batch = Rows.of(histories, max_length=8, windows="sliding").batch(histories, np.arange(2))
    item_N, time_N = histories.item[:6].tolist(), histories.time
    assert batch.next_time_N[:3].tolist() == time_N[1:4].tolist() and batch.item_N[:3].tolist() == item_N[:3]
    (known,) = eval_batches(histories, *histories.targets("test"), max_length=8, batch_size=9)
    last_B = known.batch.packing.last_B
    assert known.batch.next_time_N[last_B].tolist() == time_N[histories.offset + histories.test_at].tolist()
    (unknown,) = eval_batches(histories, np.arange(2), histories.length, max_length=8, batch_size=9)
    last_B = unknown.batch.packing.last_B
    assert torch.equal(unknown.batch.next_time_N[last_B], unknown.batch.time_N[last_B])
    moved = replace(batch, next_time_N=batch.next_time_N + 300 * DAY)
    for on in (False, True):
        model = hstu(time_bias=True, target_time=on)
        torch.nn.init.normal_(model.relative.time.weight)
        assert torch.allclose(model.item_scores(moved), model.item_scores(batch)) != on
    with pytest.raises(ConfigError, match="belongs to the time bias"):
        Hstu.check(HstuConfig(target_time=True), TrainConfig())


def test_data_without_times_are_refused_with_the_time_bias_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [f"u{user},i{item}" for user in range(30) for item in random.permutation(20)[:8]]
    (log := tmp_path / "log.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    assert genrec(tmp_path, "preprocess", "--dataset", "mine", "--interactions", log).code == 0
    words = ["train", "--dataset", "mine", "--model", "hstu", "--epochs", "1", *TINY[:4]]
    refused = genrec(tmp_path, *words, "--set", "model.time_bias=true")
    assert refused.code == 2 and "--time-col" in refused.err
    assert genrec(tmp_path, *words).code == 0


def test_times_reach_training_evaluation_and_no_given_history(tmp_path: Path) -> None:
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(tmp_path, *words).code == 0
    made = genrec(tmp_path, "train", "--model", "hstu", "--epochs", "1", *TINY[:4], "--set", "model.time_bias=true")
    assert made.code == 0, made.err
    assert genrec(tmp_path, "evaluate", "--run", "hstu-s0").code == 0
    (history := tmp_path / "new.csv").write_text("user,item\nsomebody,x\n")
    refused = genrec(tmp_path, "recommend", "--run", "hstu-s0", "--history", history)
    assert refused.code == 2 and "reads times" in refused.err
