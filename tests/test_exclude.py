"""Excluded items: both rankers give the same ranks of targets and codes, at the level of items and of codes.

Items with equal codes are a collision group; a history may hold some items of a group, and the target may be one.
"""

from typing import ClassVar

import numpy as np
import pytest
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import EvalBatch
from genrec_cli.engine import metrics
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.ranking import ExactRanker, ListRanker
from genrec_cli.nn.packing import Packing
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.rank import UNLISTED


class Fixed:
    """A model whose log-probabilities are given."""

    def __init__(self, logp_BKV: torch.Tensor) -> None:
        self.logp_BKV = logp_BKV

    def code_logprobs(self, batch: Batch) -> torch.Tensor:
        return self.logp_BKV

    def code_vectors(self) -> torch.Tensor:
        return self.logp_BKV[0, :, :, None]


class Everything:
    """A search that lists the whole catalogue, best first, and counts how often it is called."""

    whole_codes: ClassVar[bool] = True

    def __init__(self, model: Fixed, catalog: Catalog) -> None:
        self.model, self.exact, self.calls = model, Exhaustive(catalog), 0

    def decode(self, batch: Batch, k: int):
        self.calls += 1
        return self.exact.top(self.exact.scored(self.model, batch), k), {}


class Singly(Everything):
    """The same, taken for a search that may list one item of a code and not another."""

    whole_codes: ClassVar[bool] = False


def rankers(catalog: Catalog, logp_BKV: torch.Tensor) -> dict[str, ExactRanker | ListRanker]:
    model = Fixed(logp_BKV)
    lists = {
        kind.__name__: ListRanker(model, kind(model, catalog), catalog.items, catalog) for kind in (Everything, Singly)
    }
    return {"exact": ExactRanker(model, catalog), **lists}


def batch_of(histories: list[list[int]]) -> Batch:
    item_N = torch.tensor([item for history in histories for item in history])
    packing = Packing.of(np.array([len(history) for history in histories]))
    return Batch(item_N, packing, torch.arange(len(histories)))


def seen(batch: Batch) -> Excluded:
    """All items of the histories."""
    return Excluded(batch.item_N, batch.packing.sequence_N)


CODES = torch.tensor([[0], [0], [1], [1], [1], [2], [3]])
"""Groups of equal codes: items 1 and 2, items 3 to 5, item 6, item 7. Code 0 is the best, then 1, 2, 3."""
CASES = {
    # history, target: items above, ties with itself, codes above
    "nothing of it matters": ([7], 6, (5, 1, 2)),
    "another item of the target group was seen": ([2], 1, (0, 1, 0)),
    "the first of its code was seen, the target was not": ([1], 2, (0, 1, 0)),
    "two of three were seen": ([3, 5, 3], 4, (2, 1, 1)),
    "one of three was seen": ([3], 5, (2, 2, 1)),
    "the first of better codes was seen, the group counts": ([1, 3], 6, (3, 1, 2)),
    "all of better codes were seen": ([1, 2], 6, (3, 1, 1)),
    "the target was seen": ([6], 6, (UNLISTED, 1, UNLISTED)),
    "the target was seen, the other item of its group was not": ([2, 7], 2, (UNLISTED, 1, UNLISTED)),
    "the target was seen, the first of its code was not": ([5], 5, (UNLISTED, 1, UNLISTED)),
}


@pytest.mark.parametrize("name", ["exact", "Everything", "Singly"])
def test_every_ranker_on_cases_by_hand(name):
    histories, targets, expected = zip(*CASES.values(), strict=True)
    logp_BKV = torch.tensor([-1.0, -2.0, -3.0, -4.0]).expand(len(CASES), 1, 4)
    ranker = rankers(Catalog.of(torch.ones(7), CODES, 4), logp_BKV)[name]
    batch = batch_of(list(histories))
    found = ranker.rank(batch, torch.tensor(targets), 7, excluded=seen(batch)).left_out
    for row, (label, (above, ties, codes)) in enumerate(zip(CASES, expected, strict=True)):
        assert found.rank.code_above_B[row] == codes and found.rank.code_ties_B[row] == 1, label
        assert (found.rank.above_B[row], found.rank.ties_B[row]) == (above, ties), label
        assert not set(histories[row]) & set(found.top.item_Bk[row].tolist()), label
    lost = [row for row, (above, *_) in enumerate(expected) if above == UNLISTED]
    assert (metrics.per_user("Recall", 50, found.rank.above_B.numpy(), found.rank.ties_B.numpy())[lost] == 0).all()


def test_without_exclusion_what_was_seen_is_found():
    histories, targets, _ = zip(*CASES.values(), strict=True)
    logp_BKV = torch.tensor([-1.0, -2.0, -3.0, -4.0]).expand(len(CASES), 1, 4)
    some = rankers(Catalog.of(torch.ones(7), CODES, 4), logp_BKV)
    batch, target_B = batch_of(list(histories)), torch.tensor(targets)
    assert all(ranker.rank(batch, target_B, 7).left_out is None for ranker in some.values())
    one, other = (some[name].rank(batch, target_B, 7).kept.rank for name in ("exact", "Everything"))
    assert torch.equal(torch.stack(one), torch.stack(other))
    assert one.code_above_B.tolist() == CODES[torch.tensor(targets) - 1, 0].tolist()
    assert (one.above_B < 7).all()


def slow(score_I: torch.Tensor, codes: torch.Tensor, left: list[int], target: int) -> tuple[int, int, int, int]:
    """Ranks among the items ``left``, by a loop over all of them: above, ties, codes above, code ties."""
    if target not in left:
        return UNLISTED, 1, UNLISTED, 1
    target_score = score_I[target - 1]
    better = [item for item in left if score_I[item - 1] > target_score]
    equal = [item for item in left if score_I[item - 1] == target_score]
    of_codes = [{tuple(codes[item - 1].tolist()) for item in items} for items in (better, equal)]
    return len(better), len(equal), len(of_codes[0]), len(of_codes[1])


@pytest.mark.parametrize("seed", range(8))
def test_both_protocols_on_random_histories_are_what_a_loop_over_dense_scores_finds(seed):
    """Many items have equal codes, and different codes may have equal scores."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 3, (60, 2), generator=draw)
    catalog = Catalog.of(torch.ones(60), codes, 3)
    histories = [torch.randint(1, 61, (n,), generator=draw).tolist() for n in (1, 4, 9, 30, 80)] * 3
    logp_BKV = torch.randn(len(histories), 2, 3, generator=draw).log_softmax(-1)
    if seed % 2:
        logp_BKV = logp_BKV.round()
    target_B = torch.randint(1, 61, (len(histories),), generator=draw)
    batch = batch_of(histories)
    found = {
        name: ranker.rank(batch, target_B, 25, excluded=seen(batch))
        for name, ranker in rankers(catalog, logp_BKV).items()
    }
    exact = found["exact"]
    for row, (history, target) in enumerate(zip(histories, target_B.tolist(), strict=True)):
        score_I = Exhaustive(catalog).code_scores(logp_BKV)[row]
        everything = list(range(1, 61))
        for ranking, left in ((exact.kept, everything), (exact.left_out, sorted(set(everything) - set(history)))):
            expected = slow(score_I, codes, left, target)
            assert tuple(int(x_B[row]) for x_B in ranking.rank) == expected
            best = sorted(left, key=lambda item, s=score_I: (-float(s[item - 1]), item))[:25]
            best += [0] * (25 - len(best))
            assert ranking.top.item_Bk[row].tolist() == best, "of equal scores the lowest id is first"
            assert ranking.top.score_Bk[row].tolist() == [float(score_I[i - 1]) if i else -torch.inf for i in best]
    for name in ("Everything", "Singly"):
        for protocol in ("kept", "left_out"):
            one, other = getattr(exact, protocol), getattr(found[name], protocol)
            assert torch.equal(one.top.item_Bk, other.top.item_Bk)
            if seed % 2 == 0:  # the ranks of a list take different codes for different scores
                assert torch.equal(torch.stack(one.rank), torch.stack(other.rank)), name


def test_both_protocols_come_from_one_search():
    batch = batch_of([[1, 2], [3]])
    for ranker in rankers(Catalog.of(torch.ones(7), CODES, 4), torch.zeros(2, 1, 4)).values():
        if isinstance(ranker, ListRanker):
            ranker.rank(batch, torch.tensor([4, 5]), 3, excluded=seen(batch))
            assert ranker.search.calls == 1


def test_item_vectors_are_computed_once_for_an_evaluation():
    class Vectors(torch.nn.Module):
        calls = 0

        def item_scores(self, batch):
            raise AssertionError("dot products are computed chunk by chunk")

        def queries(self, batch):
            return torch.ones(batch.packing.sequences, 2)

        def item_vectors(self):
            self.calls += 1
            return torch.arange(10.0).view(5, 2)

    model, batch = Vectors(), batch_of([[1], [2]])
    ranker = ExactRanker(model, Catalog(5, torch.ones(5)))
    kntarget_score = EvalBatch(batch, torch.tensor([5, 4]), torch.arange(2), (batch.item_N, batch.packing.sequence_N))
    for evaluations in (1, 2):
        outcome = evaluate(ranker, [kntarget_score] * 3, torch.device("cpu"), k=2)
        assert model.calls == evaluations, "once per evaluation, as weights change between two"
    assert outcome.ranks["kept"].above.tolist() == outcome.ranks["left_out"].above.tolist() == [0, 1] * 3
