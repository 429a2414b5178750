"""S3-Rec: its four losses by loops, its segments, and its two stages from the command line."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from safetensors.torch import load_file
from shop import SMALL_SHOP, TINY, Answer, genrec

from genrec_cli.config import validate
from genrec_cli.data.batch import Batch
from genrec_cli.data.sequences import Rows
from genrec_cli.engine.checkpoint import BEST
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.models.s3rec import S3Rec, S3RecConfig, S3RecPretrain, S3RecPretrainConfig, segments
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn.packing import Packing

SMALL = {"width": 8, "heads": 2, "inner": 16, "dropout": 0.0, "attention_dropout": 0.0}
ITEMS = 5


def made(**settings) -> S3RecPretrain:
    torch.manual_seed(0)
    config = validate(S3RecPretrainConfig, "model", SMALL | settings)
    model = S3RecPretrain(config, make_catalog(ITEMS), max_length=8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


def training_batch() -> tuple[Batch, torch.Tensor]:
    """Rows of 2 to 8 items, the first without a mask, and their masks."""
    histories = make_histories([5, 8, 12, 7], ITEMS)
    rows = Rows.of(histories, max_length=8, windows="recent")
    batch = rows.batch(histories, np.arange(len(rows)))
    mask_N1 = torch.rand(len(batch.item_N), 1, generator=torch.Generator().manual_seed(3)) < 0.4
    mask_N1[batch.packing.sequence_N == 0] = False
    return batch, mask_N1


def rows_of(batch: Batch, *flags: torch.Tensor) -> Iterator[tuple]:
    for row in range(batch.packing.sequences):
        inside = batch.packing.sequence_N == row
        yield batch.item_N[inside].tolist(), *(flag[inside].tolist() for flag in flags)


def states(model: S3RecPretrain, items: list[int], hidden: list[bool]) -> torch.Tensor:
    """States of one row; hidden items are [MASK]."""
    token = torch.tensor([model.items if gone else item - 1 for item, gone in zip(items, hidden, strict=True)])
    return model.backbone(model.item(token), Packing.of(np.array([len(items)])))


def attribute_loss(model: S3RecPretrain, h_D: torch.Tensor, item: int) -> float:
    own, total = set(make_catalog(ITEMS).attribute_RA[item].tolist()), 0.0
    for attribute, row in enumerate(model.attribute.weight, 1):
        p = torch.sigmoid(h_D @ row)
        total -= float((p if attribute in own else 1 - p).log())
    return total


@torch.no_grad()
def test_the_losses_of_items_and_attributes_equal_loops() -> None:
    model, (batch, mask_N1) = made(), training_batch()
    expected: dict[str, list[float]] = {"next": [], "mask": [], "aap": [], "map": []}
    targets = batch.target_N[batch.packing.last_B].tolist()
    for row, (items, masked) in enumerate(rows_of(batch, mask_N1[:, 0])):
        h_TD = states(model, [*items, 1], [*masked, True])
        for place, item in enumerate([*items, targets[row]]):
            if place == len(items) or masked[place]:
                name = "next" if place == len(items) else "mask"
                score_I = model.mip(h_TD[place]) @ model.item.weight[:ITEMS].t()
                expected[name].append(-float(score_I.log_softmax(-1)[item - 1]))
                expected["map"].append(attribute_loss(model, model.map(h_TD[place]), item))
            else:
                expected["aap"].append(attribute_loss(model, model.aap(h_TD[place]), item))
    found = model.losses(batch, mask_N1)
    weights = {"next": 1.0, "mask": 1.0, "aap": 0.2, "map": 1.0, "sp": 0.5}
    assert {name: loss.weight for name, loss in found.items()} == weights
    for name, values in expected.items():
        assert found[name].count == len(values) > 0
        assert float(found[name].sum) == pytest.approx(sum(values), rel=1e-4), name


@torch.no_grad()
def test_the_loss_of_segments_equals_loops() -> None:
    model, (batch, mask_N1) = made(), training_batch()
    pairs = []
    for items, segment in rows_of(batch, segments(mask_N1[:, 0], batch.packing)):
        if any(segment):
            rest = states(model, items, segment)[-1]
            pairs.append((model.sp(rest), states(model, items, [not inside for inside in segment])[-1]))
    assert 1 < len(pairs) < batch.packing.sequences
    total = 0.0
    for row, (query_D, own_D) in enumerate(pairs):
        other_D = pairs[row - 1][1]
        total -= float(torch.sigmoid(query_D @ own_D - query_D @ other_D).log())
    found = model.losses(batch, mask_N1)["sp"]
    assert found.count == len(pairs) and float(found.sum) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.6, 1.0])
def test_segments_are_runs_of_at_most_half_a_row(ratio: float) -> None:
    length_B = np.sort(np.random.default_rng(0).integers(1, 12, 60))
    packing = Packing.of(length_B)
    mask_N = torch.rand(int(length_B.sum()), generator=torch.Generator().manual_seed(0)) < ratio
    segment_N, starts = segments(mask_N, packing), set()
    for row, length in enumerate(length_B.tolist()):
        inside = packing.sequence_N == row
        places, masked = segment_N[inside].nonzero()[:, 0].tolist(), mask_N[inside].nonzero()[:, 0].tolist()
        count = min(len(masked), length // 2)
        assert len(places) == count
        if count:
            assert places == list(range(places[0], places[0] + count))
            assert places[0] == min(masked[sum(masked) % len(masked)], length - count)
            starts.add(places[0])
    assert len(starts) > 3 or ratio == 0


def test_a_single_row_has_no_segment_of_another() -> None:
    histories = make_histories([9], ITEMS)
    batch = Rows.of(histories, max_length=8, windows="recent").batch(histories, np.array([0]))
    mask_N1 = torch.ones(len(batch.item_N), 1, dtype=torch.bool)
    model = made()
    found = model.losses(batch, mask_N1)
    assert found["sp"].count == 0 == found["sp"].sum and model.counts(batch, mask_N1)["sp"] == 0
    assert torch.isfinite(torch.stack([loss.sum for loss in found.values()])).all()


def test_losses_without_weight_are_not_computed() -> None:
    model, (batch, mask_N1) = made(aap_weight=0, map_weight=0, sp_weight=0), training_batch()
    assert set(model.losses(batch, mask_N1)) == {"next", "mask"} == set(model.counts(batch, mask_N1))
    found = made(mip_weight=0).losses(batch, mask_N1)
    assert found["next"].weight == 0, "a statistic"
    assert {name for name, loss in found.items() if loss.weight} == set(made(mip_weight=0).counts(batch, mask_N1))


def test_pairs_of_masked_items_and_sampled_items() -> None:
    model, (batch, mask_N1) = made(loss="bpr", negatives=3), training_batch()
    batch = batch.with_negatives(3, ITEMS, torch.Generator().manual_seed(0))
    found = model.losses(batch, mask_N1)
    assert found["mask"].count == mask_N1.sum() and torch.isfinite(found["mask"].sum)
    config = validate(S3RecPretrainConfig, "model", {"loss": "bpr"})
    with pytest.raises(ConfigError, match="sampled item"):
        S3RecPretrain.check(config, TrainConfig(windows="sliding"))
    S3RecPretrain.check(config, TrainConfig(windows="recent"))
    with pytest.raises(ConfigError, match="micro_batch_size is 1"):
        S3RecPretrain.check(config, TrainConfig(windows="recent", micro_batch_size=1))
    none = {f"{name}_weight": 0.0 for name in ("aap", "mip", "map", "sp")}
    with pytest.raises(ConfigError, match="all four losses are 0"):
        S3RecPretrain.check(validate(S3RecPretrainConfig, "model", none), TrainConfig())


def test_shared_negatives_are_those_of_every_position() -> None:
    batch, mask_N1 = training_batch()
    negative_1S = torch.tensor([[1, 3, 4]])
    alike = batch.item_N.new_tensor([[1, 3, 4]]).expand(len(batch.item_N), 3)
    found = made(loss="bpr", negatives=3, shared_negatives=True).losses(
        replace(batch, negative_MS=negative_1S), mask_N1
    )
    expected = made(loss="bpr", negatives=3).losses(replace(batch, negative_MS=alike), mask_N1)
    for name in ("next", "mask"):
        torch.testing.assert_close(found[name].sum, expected[name].sum)


def test_without_pre_training_it_is_sasrec() -> None:
    models = []
    for kind, config in ((SasRec, SasRecConfig(**SMALL)), (S3Rec, S3RecConfig(**SMALL, from_scratch=True))):
        torch.manual_seed(7)
        models.append(kind(config, make_catalog(ITEMS), max_length=8))
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict(), rtol=0, atol=0)
    batch, _ = training_batch()
    assert models[0].losses(batch)["next"].sum == models[1].losses(batch)["next"].sum


# ---- two stages from the command line ----------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("s3rec")
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    assert train(root, "s3rec-pretrain", "--epochs", "2").code == 0
    return root


def train(root: Path, model: str, *words: str) -> Answer:
    return genrec(root, "train", "--model", model, *TINY, *words)


def test_fine_tuning_starts_from_all_weights_of_the_pre_training(root: Path) -> None:
    still = ["--epochs", "1", "--set", "train.lr=1e-30"]
    answer = train(root, "s3rec", "--init-from", "s3rec-pretrain-s0", "--seed", "1", *still)
    tuned, first = load_file(answer.path / BEST), next((root / "synthetic" / "runs").glob("s3rec-pretrain-s0-*"))
    given = load_file(first / BEST)
    assert all(torch.equal(value, given[name][: len(value)]) for name, value in tuned.items())
    assert len(given["item.weight"]) == len(tuned["item.weight"]) + 1


def test_the_pre_training_keeps_its_last_epoch_and_learns_all_tasks(root: Path) -> None:
    answer = train(root, "s3rec-pretrain", "--epochs", "2")
    assert answer.manifest["result"]["best_epoch"] == 2
    phases = answer.manifest["config"]["curriculum"]["phase"]
    assert [(phase["mask"], phase["ratio"]) for phase in phases] == [("random", 0.2)]


def test_fine_tuning_without_pre_training_is_refused(root: Path) -> None:
    refused = train(root, "s3rec", "--epochs", "1")
    assert refused.code == 3 and "--init-from is missing" in refused.err and "from_scratch=true" in refused.err
    sasrec = train(root, "sasrec", "--epochs", "1")
    refused = train(root, "s3rec", "--epochs", "1", "--init-from", "sasrec-s0")
    assert refused.code == 3 and "names a run of 'sasrec'" in refused.err
    scratch = train(root, "s3rec", "--epochs", "1", "--set", "model.from_scratch=true")
    torch.testing.assert_close(load_file(scratch.path / BEST), load_file(sasrec.path / BEST), rtol=0, atol=0)


SETTINGS = ["model.inner=24", "model.heads=4", "model.norm=post", "model.graph_edges=3", "train.max_length=12"]


@pytest.mark.parametrize("change", SETTINGS)
def test_fine_tuning_of_another_network_is_refused(root: Path, change: str) -> None:
    if "graph" in change:  # a graph reads vectors
        assert (
            genrec(root, "tokenize", "--encoder", "lsa", "--codebooks", "2", "--codewords", "8", "--pca", "8").code == 0
        )
    refused = train(root, "s3rec", "--init-from", "s3rec-pretrain-s0", "--epochs", "1", "--set", change)
    name, value = change.split("=")
    assert refused.code == 3 and f"was trained with {name} = " in refused.err and f", not {value}." in refused.err
