"""Reconstruction of masked codes: the sums, the baseline, what is held out, and the command."""

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.reconstruction import Sums, reconstruct, unigram
from genrec_cli.models.base import Reconstructor
from genrec_cli.models.bert4rec import Bert4Rec, Bert4RecConfig
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.models.rpg import Rpg, RpgConfig

CPU = torch.device("cpu")
SMALL = {"width": 16, "heads": 2, "inner": 32}


def masks(ratio: float = 1.0, granularity: str = "item") -> HistoryMasks:
    return HistoryMasks("random", granularity, ratio, "printed", torch.Generator().manual_seed(0))


def measure(model, catalog, sampler, lengths=(5, 9, 6, 12)) -> Sums:
    histories = make_histories(list(lengths), 30)
    batches = eval_batches(
        histories, np.arange(len(lengths)), histories.length.astype(np.int64), max_length=8, batch_size=3
    )
    return reconstruct(model.eval(), catalog, histories, batches, sampler, CPU)


def test_the_baseline_counts_training_interactions():
    catalog = make_catalog()
    model = Mhl(MhlConfig(**SMALL), catalog, max_length=8)
    logp_KV = unigram(model, catalog)
    assert logp_KV.shape == (4, 8)
    count = 1 + sum(
        int(n) for codes, n in zip(catalog.codes_IK, catalog.train_count_I, strict=True) if int(codes[2]) == 5
    )
    assert logp_KV[2, 5].exp() == pytest.approx(count / (8 + int(catalog.train_count_I.sum())))
    torch.testing.assert_close(logp_KV.exp().sum(1), torch.ones(4))


def test_only_held_out_items_are_counted_and_the_loss_is_that_of_a_slow_loop():
    torch.manual_seed(0)
    catalog = make_catalog()
    model = Mhl(MhlConfig(**SMALL), catalog, max_length=8)
    sums = measure(model, catalog, masks())
    assert sums.total_UKX[:, :, 0].tolist() == [[2.0] * 4] * 4, "the two last items of each user, all their digits"
    histories, total, right = make_histories([5, 9, 6, 12], 30), 0.0, 0
    for known in eval_batches(histories, np.arange(4), histories.length.astype(np.int64), max_length=8, batch_size=1):
        batch = known.batch
        token_NK = model.apply_mask(model.tokens(batch), torch.ones(len(batch.item_N), 4, dtype=torch.bool), batch)
        with torch.no_grad():
            logp_KNV = model.logits(model.states(token_NK, batch)).log_softmax(-1)
        for back in (1, 2):
            for k, code in enumerate(catalog.codes_IK[batch.item_N[-back] - 1].tolist()):
                total -= float(logp_KNV[k, -back, code])
                right += int(logp_KNV[k, -back].argmax() == code)
    overall = sums.overall(seed=0)
    assert overall["loss"] == pytest.approx(total / 32, abs=1e-5) and overall["accuracy"] == right / 32
    assert overall["loss_95"][0] <= overall["loss"] <= overall["loss_95"][1]
    assert [row["codes"] for row in sums.digits()] == [8] * 4
    assert np.mean([row["loss"] for row in sums.digits()]) == pytest.approx(overall["loss"])


def test_padding_of_text_is_not_reconstructed():
    catalog = make_catalog(padded=True)
    sums = measure(Mhl(MhlConfig(**SMALL), catalog, max_length=8), catalog, masks())
    histories = make_histories([5, 9, 6, 12], 30)
    ends = [
        histories.item[begin + length - 2 : begin + length]
        for begin, length in zip(histories.offset, histories.length, strict=True)
    ]
    real = [(catalog.codes_IK[items.astype(int) - 1] >= 0).sum(0).tolist() for items in ends]
    order = np.argsort([5, 8, 6, 8], kind="stable")  # batches sort by length
    assert sums.total_UKX[:, :, 0].tolist() == [[float(n) for n in real[u]] for u in order]


def test_a_model_of_items_reconstructs_items():
    torch.manual_seed(0)
    catalog = make_catalog()
    model = Bert4Rec(Bert4RecConfig(width=16, heads=2), catalog, max_length=8)
    assert isinstance(model, Reconstructor) and not isinstance(
        Rpg(RpgConfig(**SMALL), catalog, max_length=8), Reconstructor
    )
    sums = measure(model, catalog, masks(0.5))
    overall = sums.overall(seed=0)
    assert len(sums.digits()) == 1 and 0 < overall["codes"] < 8
    assert overall["loss"] > 0 and overall["unigram_loss"] > 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("reconstruct") / "artifacts"
    short = [*TINY, "--device", "cpu"]
    for words in (
        SMALL_SHOP,
        ["preprocess"],
        ["tokenize", "--codebooks", "4", "--codewords", "16"],
        ["train", *short, "--epochs", "6", "--curriculum", "r", "--set", "train.lr=4e-3"],
        ["train", *short, "--epochs", "1", "--model", "sasrec"],
        [
            "train",
            *short,
            "--epochs",
            "2",
            "--curriculum",
            "r",
            "--init-from",
            "mhl-s0",
            "--freeze",
            "backbone.*",
            "--label",
            "probe",
        ],
    ):
        assert (answer := genrec(root, *words)).code == 0, answer.err
    return root


def test_the_command_tables_losses_beside_frequencies(shop):
    answer = genrec(shop, "evaluate", "--task", "reconstruct", "--run", "mhl-s0", "--device", "cpu")
    result = answer.manifest["result"]
    assert result["codes"] > 100 and len(result["digits"]) == 4
    assert result["loss"] < result["unigram_loss"] + 0.5 and 0 < result["accuracy"] < 1
    assert "accuracy of frequencies" in answer.err and "95 % over users" in answer.err
    again = genrec(shop, "evaluate", "--task", "reconstruct", "--run", "mhl-s0", "--device", "cpu", "--force")
    assert again.manifest["result"]["loss"] == result["loss"], "masks are drawn by the seed"
    probe = genrec(shop, "evaluate", "--task", "reconstruct", "--run", "probe", "--set", "reconstruct.users=20")
    assert probe.manifest["result"]["users"] == 20


def test_no_mask_at_all_is_a_clear_error(shop):
    few = ["--set", "reconstruct.users=1", "--set", "reconstruct.ratio=0.001"]
    answer = genrec(shop, "evaluate", "--task", "reconstruct", "--run", "mhl-s0", *few)
    assert answer.code == 3 and "was drawn as a mask" in answer.err and "reconstruct.ratio" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "reconstruct", "--run", "sasrec-s0"], "has no mask loss"),
        (["--task", "reconstruct", "--run", "mhl-s0", "--at", "5"], "does not read --at"),
        (["--task", "reconstruct", "--run", "mhl-s0", "--set", "evaluate.users=3"], "does not read"),
        (["--task", "reconstruct", "--run", "mhl-s0", "--set", "reconstruct.ratio=0"], "masks nothing"),
        (["--task", "next", "--run", "mhl-s0", "--set", "reconstruct.ratio=0.5"], "does not read"),
        (["--task", "guess", "--run", "mhl-s0"], "no task 'guess'"),
    ],
)
def test_what_cannot_be_reconstructed_is_said(shop, words, message):
    answer = genrec(shop, "evaluate", *words)
    assert answer.code == 2 and message in answer.err, answer.err
