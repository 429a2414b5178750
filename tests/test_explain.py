"""The explanations of case-study for masked history learning, against loops over items and digits."""

import math

import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_catalog
from shop import SMALL_SHOP, TINY, genrec

from genrec_cli.config import validate
from genrec_cli.engine.explain import (
    Explanation,
    explain,
    most_influential_item,
    one_history,
    reconstruction,
    without_each,
)
from genrec_cli.models.mhl import Mhl, MhlConfig
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages.case_study import HEAT, heat

ITEM_T = torch.tensor([3, 17, 3, 29, 8])
CATALOG = make_catalog()
SHAPE = {"width": 16, "heads": 2, "inner": 16}


@pytest.fixture(scope="module")
def model() -> Mhl:
    torch.manual_seed(0)
    made = Mhl(validate(MhlConfig, "model", SHAPE), CATALOG, max_length=8).eval()
    torch.nn.init.normal_(made.codes.table.weight)
    torch.nn.init.normal_(made.heads.linear.weight)
    return made


@pytest.fixture(scope="module")
def search() -> Exhaustive:
    return Exhaustive(CATALOG)


def distributions(model: Mhl, token_TK: torch.Tensor, at: int) -> list[torch.Tensor]:
    """``P^k(. | h_at)`` of one history, digit by digit."""
    with torch.no_grad():
        logit_KTV = model.logits(model.states(token_TK, one_history(ITEM_T)))
    return [logit_KTV[k, at].softmax(0) for k in range(model.digits)]


def mean_logp(distribution: list[torch.Tensor], item: int) -> float:
    codes = CATALOG.codes_IK[item - 1].tolist()
    return sum(math.log(probability[code]) for probability, code in zip(distribution, codes, strict=True)) / len(codes)


@torch.no_grad()
def test_entropies_are_means_over_the_digits(model, search):
    batch = one_history(ITEM_T)
    found = explain(model, search, ITEM_T, 14, ITEM_T).entropy_T.tolist()
    for at, value in enumerate(found):
        distribution = distributions(model, model.tokens(batch), at)
        digits = [-sum(p * math.log(p) for p in probability.tolist()) for probability in distribution]
        assert value == pytest.approx(sum(digits) / len(digits), abs=1e-5)
    assert len(set(found)) == len(ITEM_T)


@torch.no_grad()
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_masked_item_is_reconstructed_from_mask_tokens_alone(model, search, at):
    token_TK = model.tokens(one_history(ITEM_T)).clone()
    for digit in range(model.digits):
        token_TK[at, digit] = model.digits * CATALOG.codewords + at * model.digits + digit
    distribution = distributions(model, token_TK, at)
    expected = [mean_logp(distribution, item) for item in range(1, 31)]
    found = reconstruction(model, search, one_history(ITEM_T), at)[0].tolist()
    assert found == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_the_prediction_does_not_depend_on_the_masked_item(model, search):
    other_T = ITEM_T.clone()
    other_T[2] = 12
    found, other = (reconstruction(model, search, one_history(items), 2) for items in (ITEM_T, other_T))
    assert torch.equal(found, other)


@torch.no_grad()
def test_removals_in_one_batch_are_removals_one_by_one(model, search):
    found = without_each(model, search, ITEM_T)
    for gone in range(len(ITEM_T)):
        rest = torch.cat([ITEM_T[:gone], ITEM_T[gone + 1 :]])
        torch.testing.assert_close(found[gone], search.scores(model, one_history(rest))[0], atol=1e-5, rtol=1e-5)


def test_why_holds_what_a_loop_finds(model, search):
    with torch.no_grad():
        score = search.scores(model, one_history(ITEM_T))
        rows = without_each(model, search, ITEM_T)
    listed = search.top(score, 5).item_Bk[0]
    why = explain(model, search, ITEM_T, 14, listed)
    assert why.masked == int(why.entropy_T.argmax()) and len(why.guess_k) == 3
    for gone, row in enumerate(rows.tolist()):
        best = sorted(range(1, 31), key=lambda item: -row[item - 1])[:5]
        assert sorted(row[item - 1] for item in why.without_Tk[gone]) == sorted(row[item - 1] for item in best)
        assert why.kept_T[gone] == len(set(why.without_Tk[gone].tolist()) & set(listed.tolist()))
        assert why.rank_T[gone] == 1 + sum(value > row[13] for value in row)
    with torch.no_grad():
        guesses = reconstruction(model, search, one_history(ITEM_T), why.masked)[0]
    true = int(ITEM_T[why.masked])
    assert guesses[why.guess_k - 1].tolist() == guesses.sort(descending=True).values[:3].tolist()
    assert why.masked_rank == 1 + sum(float(value) > float(guesses[true - 1]) for value in guesses)


def test_a_single_item_cannot_be_removed(model, search):
    why = explain(model, search, ITEM_T[:1], 14, torch.tensor([1, 2, 0]))
    assert (why.masked, len(why.kept_T), len(why.without_Tk)) == (0, 0, 0)
    assert most_influential_item(why, 3) is None


REMOVALS = [
    ([5, 2, 4], [9, 9, 1], 1),  # fewest kept
    ([2, 2, 2], [7, 2, 4], 1),  # then the target's rank, where the head of the list counts most
    ([3, 3, 3], [5, 5, 5], 2),  # then the most recent
]


@pytest.mark.parametrize(("kept", "rank", "expected"), REMOVALS)
def test_the_strongest_removal(kept, rank, expected):
    nothing = torch.zeros(3)
    assert (
        most_influential_item(Explanation(nothing, 0, nothing, 1, nothing, torch.tensor(kept), torch.tensor(rank)), 5)
        == expected
    )


def test_heat_runs_from_the_surest_item_to_the_least_sure():
    assert heat([float(value) for value in range(8)]) == HEAT
    assert heat([2.0, 1.0, 3.0]) == f"{HEAT[4]}{HEAT[0]}{HEAT[7]}"
    assert heat([1.5, 1.5]) == HEAT[0] * 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("explain")
    for words in (SMALL_SHOP, ["preprocess"], ["tokenize", "--codebooks", "4", "--codewords", "8"]):
        assert genrec(root, *words).code == 0
    for words in (
        ["--model", "mhl", "--label", "short", "--set", "train.max_length=4"],
        ["--model", "mhl"],
        ["--model", "rpg"],
    ):
        assert genrec(root, "train", *words, "--epochs", "1", *TINY).path
    return root


def test_a_case_study_explains_runs_that_mask(root):
    answer = genrec(root, "case-study", "short", "mhl-s0", "rpg-s0", "--users", "4")
    text, rows = (answer.path / "cases.md").read_text(), pq.read_table(answer.path / "cases.parquet").to_pylist()
    assert text in answer.err
    assert len(rows) == 12
    assert text.count("is masked (that item") == text.count("Its list depends most on") == 8
    for row in rows:
        if row["run"] == "rpg-s0":
            assert row["entropy"] is row["hidden"] is row["guesses"] is row["kept_without"] is None
            continue
        read = row["history"][-4:] if row["run"] == "short" else row["history"]
        assert len(row["entropy"]) == len(row["kept_without"]) == len(row["rank_without"]) == len(read)
        assert row["hidden"] == read[row["entropy"].index(max(row["entropy"]))]
        assert all(0 < value < math.log(8) + 1e-3 for value in row["entropy"])
        assert (row["hidden"] in row["guesses"]) == (row["hidden_rank"] <= 3) or row["hidden_rank"] <= 4, "ties"
    for number, case in enumerate(text.split("## User ")[1:]):
        shown = [line for line in case.splitlines() if line.startswith("- `")]
        short, whole = rows[3 * number], rows[3 * number + 1]
        expected = zip(heat(short["entropy"]).rjust(len(whole["history"])), heat(whole["entropy"]), strict=True)
        assert [line[3:5] for line in shown] == ["".join(pair) for pair in expected][-10:]


def test_other_runs_are_shown_as_before(root):
    text = (genrec(root, "case-study", "rpg-s0", "--users", "2").path / "cases.md").read_text()
    assert not set(HEAT) & set(text)
    assert "oldest first):" in text and "is masked" not in text
