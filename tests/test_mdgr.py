"""MDGR: all targets in one pass against each alone, what a digit and a history may see, and the commands end to end."""

from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_catalog, make_histories
from shop import TINY, genrec, small_codes

from genrec_cli.config import validate
from genrec_cli.curriculum.target_masks import NoiseConfig, TargetMasks
from genrec_cli.data.batch import Batch
from genrec_cli.data.sequences import Histories, Rows, eval_batches
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.models.mdgr import Mdgr, MdgrConfig
from genrec_cli.nn.packing import Packing

K, V, ITEMS = 4, 8, 30
QUIET = {
    "width": 16,
    "heads": 2,
    "inner": 32,
    "layers": 2,
    "decoder_layers": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def build(digits: int = K, **settings) -> Mdgr:
    torch.manual_seed(0)
    return Mdgr(validate(MdgrConfig, "model", QUIET | settings), make_catalog(ITEMS, digits, V), max_length=8)


def batch_of(histories: Histories, windows: str = "sliding") -> Batch:
    rows = Rows.of(histories, max_length=8, windows=windows)
    return rows.batch(histories, torch.arange(len(rows)).numpy())


def alone(batch: Batch, target: int) -> tuple[Batch, torch.Tensor]:
    """The history up to one target as a batch of its own, and the target's item."""
    at = int(batch.learn_M[target])
    begin = at - int(batch.packing.position_N[at])
    item_N = batch.item_N[begin : at + 1]
    return Batch(item_N, Packing.of([len(item_N)]), batch.user_B[:1]), batch.target_N[at]


@pytest.mark.parametrize("last_state, digits", [(True, K), (False, K), (True, 1)])
@pytest.mark.parametrize("lengths", [[5, 9, 3, 14, 6], [12, 12], [4], [4] * 12 + [14]])
def test_all_targets_at_once_give_what_each_gives_alone(lengths: list[int], last_state: bool, digits: int) -> None:
    """Training's one causal pass, with any masks, against the memory that decoding uses, one target at a time: loss and
    gradients, on one grid and on two."""
    model, batch = build(digits, last_state=last_state), batch_of(make_histories(lengths, ITEMS))
    mask_MK = torch.rand(len(batch.learn_M), digits, generator=torch.Generator().manual_seed(0)) < 0.5
    mask_MK[:, 0] |= ~mask_MK.any(1)
    losses = model.losses(batch, mask_MK)
    total = torch.zeros(())
    for target in range(len(batch.learn_M)):
        one, item = alone(batch, target)
        code_K = model.codes_of(item)
        known_K = torch.where(mask_MK[target], -1, code_K)
        logp_KV = model.fill(model.read(one), known_K[None, None])[0, 0]
        total = total - logp_KV.gather(1, code_K[:, None])[mask_MK[target]].sum()
    assert losses["next"].count == mask_MK.sum() and len(batch.packing.parts) == 1 + (len(lengths) > 9)
    torch.testing.assert_close(losses["next"].sum, total)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    one, two = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in (losses["next"].sum, total))
    for found, expected in zip(one, two, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("windows, causal", [("sliding", True), ("each", False)])
def test_views_of_a_target_are_learned_as_if_each_were_alone(windows: str, causal: bool) -> None:
    model, batch = build(causal=causal), batch_of(make_histories([5, 9, 3, 14, 6], ITEMS), windows)
    random = torch.Generator().manual_seed(0)
    sampler = TargetMasks(NoiseConfig(preset="random", views=3), K, random)
    mask_XK = sampler(model, batch)
    mask_MWK = mask_XK.unflatten(0, (-1, 3))
    assert len(mask_MWK) == len(batch.learn_M)
    assert mask_MWK[:, 0].all()
    for fewer, more in ((1, 2), (2, 1)):  # nested: one of two views holds the other
        nested = (mask_MWK[:, fewer] <= mask_MWK[:, more]).all(-1)
        assert (nested | (mask_MWK[:, more] <= mask_MWK[:, fewer]).all(-1)).all()
    together = model.losses(batch, mask_XK)["next"]
    alone = [model.losses(batch, mask_MWK[:, view])["next"] for view in range(3)]
    torch.testing.assert_close(together.sum, sum(loss.sum for loss in alone))
    assert together.count == sum(loss.count for loss in alone) == model.counts(batch, mask_XK)["next"]


def test_masked_digits_of_a_target_start_apart() -> None:
    """Cosine similarity of the decoder's input at all-masked digits, ours and with ``input_scale = 1``."""
    batch = batch_of(make_histories([5, 9, 3], ITEMS))
    similarity = []
    for settings in ({}, {"input_scale": 1.0}):
        model = build(width=64, **settings).eval()
        h_ND, mask_MK = model.encode(batch), torch.ones(len(batch.learn_M), K, dtype=torch.bool)
        x_MKD = model.embed(torch.zeros_like(mask_MK).long(), mask_MK) + model.start(h_ND, batch.learn_M)[:, None]
        unit_MKD = torch.nn.functional.normalize(x_MKD, dim=-1)
        similarity.append((unit_MKD[:, 0] * unit_MKD[:, 1]).sum(-1).mean().item())
    assert similarity[0] < 0.7
    assert similarity[1] > 0.99


def test_smoothing_and_a_trained_temperature_change_the_loss() -> None:
    batch = batch_of(make_histories([5, 9, 3], ITEMS))
    plain = build().losses(batch)["next"].sum
    torch.testing.assert_close(build(learn_temperature=True).losses(batch)["next"].sum, plain)
    model = build(learn_temperature=True)
    model.losses(batch)["next"].sum.backward()
    assert model.log_scale.grad.abs() > 0
    assert not torch.isclose(build(label_smoothing=0.1).losses(batch)["next"].sum, plain)


def test_the_log_tells_how_many_digits_were_masked() -> None:
    model, batch = build(), batch_of(make_histories([7], ITEMS))
    mask_MK = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]).bool()
    losses = model.losses(batch, mask_MK)
    told = {name: float(loss.sum / loss.count) for name, loss in losses.items() if loss.weight == 0}
    assert told == {"masked_digits": 2.0, "masked_1": 0.5, "masked_2": 0.25, "masked_3": 0.0, "masked_4": 0.25}


def test_a_masked_code_has_no_influence_and_a_known_one_has() -> None:
    model, batch = build(), batch_of(make_histories([9], ITEMS))
    mask_MK = torch.zeros(len(batch.learn_M), K, dtype=torch.bool)
    mask_MK[:, 1:3] = True
    seen = {}
    model.decoder.dropout.register_forward_hook(lambda module, inputs, out: seen.update(x=out.retain_grad() or out))
    model.losses(batch, mask_MK)["next"].sum.backward()
    assert (seen["x"].grad.abs().sum(-1) > 0).all(), "each digit is read, known or not"
    target_MK = model.codes_of(batch.target_N[batch.learn_M])
    other_MK = torch.where(mask_MK, (target_MK + 1) % V, target_MK)
    assert torch.equal(model.embed(target_MK, mask_MK), model.embed(other_MK, mask_MK))
    assert not torch.equal(model.embed(target_MK, mask_MK), model.embed((target_MK + 1) % V, mask_MK))


def test_a_target_sees_no_history_behind_it_and_no_other_target() -> None:
    """By gradients: of the states that cross-attention reads, and of the digits of the other targets."""
    model, batch = build(), batch_of(make_histories([9, 7], ITEMS))
    h_ND = model.encode(batch).detach().requires_grad_()
    target_MK = model.codes_of(batch.target_N[batch.learn_M])
    x_MKD = model.embed(target_MK, torch.ones_like(target_MK).bool()).detach().requires_grad_()
    state_MKD = model.decoder.causal(x_MKD, h_ND, batch.packing, batch.learn_M)
    chosen = 6
    at = int(batch.learn_M[chosen])
    state_MKD[chosen].square().sum().backward()
    reach_N, reach_M = h_ND.grad.abs().sum(1) > 0, x_MKD.grad.abs().sum((1, 2)) > 0
    same_N = batch.packing.sequence_N == batch.packing.sequence_N[at]
    assert torch.equal(reach_N, same_N & (torch.arange(len(h_ND)) <= at))
    assert reach_M.nonzero().flatten().tolist() == [chosen]


def test_difficulty_is_told() -> None:
    model = build()
    codes_MK = torch.zeros(1, K, dtype=torch.long)
    one, two = torch.tensor([[True, False, False, False]]), torch.tensor([[True, True, False, False]])
    changed_K = (model.embed(codes_MK, one) - model.embed(codes_MK, two)).abs().sum(-1)[0]
    assert (changed_K > 0).all()


def test_padding_of_a_memory_is_not_read() -> None:
    model, histories = build().eval(), make_histories([5, 9, 3], ITEMS)
    user, at = histories.targets("test")
    (known,) = eval_batches(histories, user, at, max_length=8, batch_size=9)
    codes_BMK = torch.randint(-1, V, (3, 5, K), generator=torch.Generator().manual_seed(0))
    codes_BMK[..., 0] = -1
    logp_BMKV = model.fill(model.read(known.batch), codes_BMK)
    for single in eval_batches(histories, user, at, max_length=8, batch_size=1):
        row = int((known.batch.user_B == single.batch.user_B).nonzero())
        found = model.fill(model.read(single.batch), codes_BMK[row : row + 1])
        torch.testing.assert_close(found[0], logp_BMKV[row])
    loss_B = model.target_loss(known.batch, known.target_B)
    masked_BKV = model.fill(model.read(known.batch), torch.full((3, 1, K), -1))[:, 0]
    slow = [-masked_BKV[b, torch.arange(K), model.codes_of(i)].mean() for b, i in enumerate(known.target_B)]
    torch.testing.assert_close(loss_B, torch.stack(slow))


def test_an_encoder_of_both_directions_learns_one_target_a_row() -> None:
    config = MdgrConfig(causal=False)
    with pytest.raises(ConfigError, match="sees later items"):
        Mdgr.check(config, TrainConfig(windows="sliding"))
    Mdgr.check(config, TrainConfig(windows="each"))


def test_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="text"):
        Mdgr.check(MdgrConfig(), TrainConfig(), make_catalog(ITEMS, K, V, padded=True))


# ---- the commands --------------------------------------------------------------------------------------

SMALL = [*TINY, "--set", "model.layers=1", "--set", "model.decoder_layers=1", "--set", "search.beams=10"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_codes(tmp_path_factory.mktemp("mdgr"))


@pytest.mark.parametrize("preset", get_args(NoiseConfig.model_fields["preset"].annotation))
def test_a_preset_masks_as_it_says(root: Path, preset: str) -> None:
    answer = genrec(root, "train", "--model", "mdgr", *SMALL, "--epochs", "4", "--set", f"noise.preset={preset}")
    assert answer.code == 0, answer.err
    log = pq.read_table(answer.path / "log.parquet").to_pylist()
    first, last = log[0]["loss/masked_digits"], log[-1]["loss/masked_digits"]
    for row in log:
        shares = [row[f"loss/masked_{k}"] for k in range(1, 5)]
        assert sum(shares) == pytest.approx(1)
        assert sum(k * share for k, share in enumerate(shares, 1)) == pytest.approx(row["loss/masked_digits"])
    if preset == "random":
        assert first == pytest.approx(2.5, abs=0.15) and last == pytest.approx(2.5, abs=0.15)
    else:
        assert first < 2.2 and last > 2.7
    assert answer.manifest["config"]["noise"]["preset"] == preset


def test_an_encoder_of_both_directions_takes_rows_of_one_target(root: Path) -> None:
    words = ["train", "--model", "mdgr", *SMALL, "--epochs", "1", "--set", "model.causal=false"]
    refused = genrec(root, *words)
    assert refused.code == 3 and "train.windows=each" in refused.err
    assert genrec(root, *words, "--set", "train.windows=each").code == 0


def test_one_run_is_decoded_in_many_ways_and_drawn(root: Path, tmp_path: Path) -> None:
    sizes = "\n".join(
        ["[model]", 'name = "mdgr"', "width = 16", "heads = 2", "inner = 16", "layers = 1", "[train]", "epochs = 1"]
    )
    (path := tmp_path / "ways.toml").write_text(
        '[sweep]\ntitle = "Ways"\ncolumns = ["Recall@10", "users_per_second", "valid_fraction"]\n'
        f"[sweep.grid]\nsearch.parallel = [1, 4]\nsearch.warmup = [0, 2]\n{sizes}\n[search]\nbeams = 12\n"
    )
    answer = genrec(root, "sweep", path)
    rows = pq.read_table(answer.path / "runs.parquet").to_pylist()
    assert len({row["run"] for row in rows}) == 1 and len({row["evaluation"] for row in rows}) == 4
    table = pq.read_table(answer.path / "table.parquet").to_pylist()
    assert [row["row"] for row in table] == [f"parallel {m}, warmup {r}" for m in (1, 4) for r in (0, 2)]
    assert all(row["users_per_second"] > 0 and row["valid_fraction"] == 1 for row in table)
    pytest.importorskip("matplotlib")
    drawn = genrec(root, "figures", "--sweep", answer.path)
    assert "mathdefault" not in (drawn.path / "tradeoff.svg").read_text()
    run = genrec(root, "figures", rows[0]["run"])
    assert (run.path / "mask-counts.svg").is_file() and (run.path / "mask-counts.parquet").is_file()


@pytest.mark.slow
def test_order_is_learned(tmp_path: Path) -> None:
    """Better than popularity on the ordered shop, though most of the few epochs only fill in single digits."""
    shop = ["--set", "source.users=800", "--set", "source.items=200", "--set", "source.order=1.0"]
    shop += ["--set", "source.text=0.0"]
    for words in (
        ["download", "--dataset", "synthetic", *shop, "--set", "source.noise=0.0"],
        ["preprocess"],
        ["tokenize", "--codebooks", "4", "--codewords", "32"],
        ["train", "--model", "popular"],
    ):
        assert genrec(tmp_path, *words).code == 0
    sizes = {
        "model.width": 32,
        "model.heads": 2,
        "model.inner": 64,
        "model.layers": 1,
        "model.decoder_layers": 1,
        "model.dropout": 0.1,
        "model.attention_dropout": 0.0,
        "train.lr": 0.005,
        "train.warmup_steps": 20,
        "train.eval_every": 5,
    }
    words = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    assert genrec(tmp_path, "train", "--model", "mdgr", "--epochs", "10", *words).code == 0
    found = {
        model: genrec(tmp_path, "evaluate", "--run", f"{model}-s0").manifest["result"]["metrics"]["kept"]["NDCG@10"]
        for model in ("mdgr", "popular")
    }
    assert found["mdgr"] > 2 * found["popular"]
