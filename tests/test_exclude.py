"""Left out of the ranking: both rankers say the same of targets, twins and codes, at the level of items and of codes.

Items with equal codes are twins; a history may hold some of them, and the target may be among those.
"""

from typing import ClassVar

import numpy as np
import pytest
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.decoders.exhaustive import Exhaustive
from genrec_cli.decoders.rank import UNLISTED
from genrec_cli.engine import metrics
from genrec_cli.engine.ranking import ExactRanker, ListRanker
from genrec_cli.nn.packing import Packing


class Fixed:
    """A model whose log-probabilities are given."""

    def __init__(self, logp_BKV: torch.Tensor) -> None:
        self.logp_BKV = logp_BKV

    def code_logprobs(self, batch: Batch) -> torch.Tensor:
        return self.logp_BKV

    def code_vectors(self) -> torch.Tensor:
        return self.logp_BKV[0, :, :, None]


class Everything:
    """A decoder that lists the whole catalogue, best first."""

    whole_codes: ClassVar[bool] = True

    def __init__(self, model: Fixed, catalog: Catalog) -> None:
        self.model, self.exact = model, Exhaustive(catalog)

    def decode(self, batch: Batch, k: int):
        return self.exact.top(self.exact.scored(self.model, batch), k), {}


class Singly(Everything):
    """The same, taken for a decoder that may list one item of a code and not another."""

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


def cells(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """All that stands in the histories, and in which."""
    return batch.item_N, batch.packing.sequence_N


CODES = torch.tensor([[0], [0], [1], [1], [1], [2], [3]])
"""Items 1 and 2 are twins, 3 to 5 are three of a kind, 6 and 7 are alone. Of the codes, 0 is the best, then 1, 2, 3."""
CASES = {
    # history, target: items above, ties with itself, codes above
    "nothing of it matters": ([7], 6, (5, 1, 2)),
    "a twin of the target was seen": ([2], 1, (0, 1, 0)),
    "the first of its code was seen, the target was not": ([1], 2, (0, 1, 0)),
    "two of three were seen": ([3, 5, 3], 4, (2, 1, 1)),
    "one of three was seen": ([3], 5, (2, 2, 1)),
    "the first of better codes was seen, its twin counts": ([1, 3], 6, (3, 1, 2)),
    "all of better codes were seen": ([1, 2], 6, (3, 1, 1)),
    "the target was seen": ([6], 6, (UNLISTED, 1, UNLISTED)),
    "the target was seen, its twin was not": ([2, 7], 2, (UNLISTED, 1, UNLISTED)),
    "the target was seen, the first of its code was not": ([5], 5, (UNLISTED, 1, UNLISTED)),
}


@pytest.mark.parametrize("name", ["exact", "Everything", "Singly"])
def test_every_ranker_on_cases_by_hand(name):
    histories, targets, expected = zip(*CASES.values(), strict=True)
    logp_BKV = torch.tensor([-1.0, -2.0, -3.0, -4.0]).expand(len(CASES), 1, 4)
    ranker = rankers(Catalog.of(torch.ones(7), CODES, 4), logp_BKV)[name]
    batch = batch_of(list(histories))
    found = ranker.rank(batch, torch.tensor(targets), 7, hidden=cells(batch))
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
    one, other = (some[name].rank(batch_of(list(histories)), torch.tensor(targets), 7).rank
                  for name in ("exact", "Everything"))  # fmt: skip
    assert torch.equal(torch.stack(one), torch.stack(other))
    assert one.code_above_B.tolist() == CODES[torch.tensor(targets) - 1, 0].tolist()
    assert (one.above_B < 7).all()


@pytest.mark.parametrize("seed", range(8))
def test_rankers_agree_on_random_histories_with_many_twins(seed):
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 3, (60, 2), generator=draw)
    catalog = Catalog.of(torch.ones(60), codes, 3)
    histories = [torch.randint(1, 61, (n,), generator=draw).tolist() for n in (1, 4, 9, 30, 80)] * 3
    logp_BKV = torch.randn(len(histories), 2, 3, generator=draw).log_softmax(-1)
    target_B = torch.randint(1, 61, (len(histories),), generator=draw)
    batch = batch_of(histories)
    found = {name: ranker.rank(batch, target_B, 60, hidden=cells(batch))
             for name, ranker in rankers(catalog, logp_BKV).items()}  # fmt: skip
    exact = found["exact"]
    for name in ("Everything", "Singly"):
        assert torch.equal(torch.stack(exact.rank), torch.stack(found[name].rank)), name
    for row, (history, target) in enumerate(zip(histories, target_B.tolist(), strict=True)):
        score_I = logp_BKV[row, torch.arange(2), codes].mean(1)
        left = [item for item in range(1, 61) if item not in history]
        assert set(exact.top.item_Bk[row].tolist()) - {0} == set(left)
        if target in history:
            assert exact.rank.above_B[row] == exact.rank.code_above_B[row] == UNLISTED
            continue
        better = [item for item in left if score_I[item - 1] > score_I[target - 1]]
        assert exact.rank.above_B[row] == len(better)
        assert exact.rank.code_above_B[row] == len({tuple(codes[item - 1].tolist()) for item in better})
        assert exact.rank.ties_B[row] == sum(bool((codes[item - 1] == codes[target - 1]).all()) for item in left)
