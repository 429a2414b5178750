"""The trie and the search in it, against loops and against scoring every item."""

import math

import numpy as np
import pytest
import torch
from conftest import make_catalog, make_histories

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.models.tiger import Tiger, TigerConfig
from genrec_cli.nn.packing import Packing
from genrec_cli.searches.beam import Beam, BeamConfig
from genrec_cli.searches.trie import Trie

ITEMS, DIGITS, CODEWORDS = 200, 3, 8


def some_batch(users: int = 6) -> Batch:
    lengths = np.arange(users) % 5 + 1
    random = torch.Generator().manual_seed(3)
    return Batch(
        torch.randint(1, ITEMS + 1, (int(lengths.sum()),), generator=random),
        Packing.of(np.sort(lengths)),
        torch.arange(users),
    )


class Table:
    """Log-probabilities drawn for each prefix, the same for equal seeds: a model without a network.

    ``levels``: how many different probabilities there are; few give ties.
    """

    def __init__(self, users: int, *, levels: int = 0, digits: int = DIGITS, codewords: int = CODEWORDS) -> None:
        random = torch.Generator().manual_seed(0)
        self.tables = []
        for digit in range(digits):
            table = torch.randn(users, codewords**digit, codewords, generator=random)
            self.tables.append(((table * levels).round() / levels if levels else table).log_softmax(-1))
        if levels:  # sums of few binary fractions: ties are exact, whatever the order of adding
            self.tables = [(table * 4).round() / 4 for table in self.tables]

    def prefixes(self, batch: Batch) -> "TablePrefixes":
        return TablePrefixes(self.tables)

    def scores(self, codes_IK: torch.Tensor) -> list[list[float]]:
        """Every item, one by one."""
        users = self.tables[0].shape[0]
        found = []
        for user in range(users):
            row = []
            for codes in codes_IK.tolist():
                prefix, total = 0, 0.0
                for table, code in zip(self.tables, codes, strict=True):
                    total += float(table[user, prefix, code])
                    prefix = prefix * table.shape[2] + code
                row.append(total)
            found.append(row)
        return found


class TablePrefixes:
    def __init__(self, tables: list[torch.Tensor]) -> None:
        self.tables, self.digit, self.prefix_BM = tables, 0, None

    def first(self) -> torch.Tensor:
        self.prefix_BM = torch.zeros(len(self.tables[0]), 1, dtype=torch.long)
        return self.tables[0]

    def extend(self, parent_BM: torch.Tensor, code_BM: torch.Tensor) -> torch.Tensor:
        self.digit += 1
        table = self.tables[self.digit]
        self.prefix_BM = self.prefix_BM.gather(1, parent_BM) * table.shape[2] + code_BM
        return table[torch.arange(len(table))[:, None], self.prefix_BM]


# ---- the trie ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items, digits, codewords", [(200, 3, 8), (30, 4, 3), (5, 1, 9), (1, 2, 4)])
def test_the_trie_equals_sets_of_prefixes(items, digits, codewords):
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(0, codewords, (items, digits), generator=random)
    trie = Trie(Catalog.of(torch.arange(items), codes, codewords))
    nodes = [()]
    for digit in range(digits):
        child_1MW, code_1MW, real_1MW = trie.children(digit, torch.arange(len(nodes))[None])
        grown = sorted({tuple(row[: digit + 1]) for row in codes.tolist()})
        assert child_1MW[real_1MW].tolist() == list(range(len(grown))), "each node is the child of one node"
        for m, prefix in enumerate(nodes):
            real = real_1MW[0, m]
            found = [(*prefix, code) for code in code_1MW[0, m][real].tolist()]
            assert found == [node for node in grown if node[:digit] == prefix]
            assert [grown[child] for child in child_1MW[0, m][real].tolist()] == found
        nodes = grown
    everything, beam = trie.items(
        torch.arange(len(nodes))[None], torch.ones(1, len(nodes), dtype=torch.bool), items + 3
    )
    expected = [
        (leaf, i + 1) for leaf, node in enumerate(nodes) for i in range(items) if tuple(codes[i].tolist()) == node
    ]
    assert list(zip(beam[0].tolist(), everything[0].tolist(), strict=True))[:items] == expected
    assert everything[0, items:].tolist() == [0, 0, 0]


# ---- the search ----------------------------------------------------------------------------------------


def brute_force(scores: list[float], codes: list[tuple[int, ...]]) -> list[tuple[float, tuple[int, ...], int]]:
    """(score, codes, item), best first; equal scores by codes, items of one code by id."""
    rows = [(score, codes[i], i + 1) for i, score in enumerate(scores)]
    return sorted(rows, key=lambda row: (-row[0], row[1], row[2]))


@pytest.mark.parametrize("levels", [0, 1])
def test_a_beam_that_covers_the_catalogue_is_exact(levels):
    """200 items, some of equal codes; with few levels many different codes tie as well."""
    catalog, model = make_catalog(ITEMS, DIGITS, CODEWORDS), Table(6, levels=levels)
    codes = [tuple(row) for row in catalog.codes_IK.tolist()]
    assert len(set(codes)) < ITEMS
    top, figures = Beam(model, catalog, BeamConfig(beams=ITEMS)).decode(some_batch(), ITEMS)
    assert (figures["codes"] == len(set(codes))).all()
    for user, scores in enumerate(model.scores(catalog.codes_IK)):
        expected = brute_force(scores, codes)
        if levels:
            assert len(set(scores)) < len(set(codes)) / 2, "there are ties"
            assert top.item_Bk[user].tolist() == [item for _, _, item in expected]
        else:
            assert [codes[i - 1] for i in top.item_Bk[user].tolist()] == [code for _, code, _ in expected]
        np.testing.assert_allclose(top.score_Bk[user], [score for score, _, _ in expected], atol=1e-5)


def loop_search(
    model: Table, user: int, codes: set[tuple[int, ...]], beams: int
) -> list[tuple[float, tuple[int, ...]]]:
    """The search as one would write it on paper."""
    kept = [(0.0, (), 0)]
    for digit, table in enumerate(model.tables):
        grown = []
        for score, prefix, node in kept:
            allowed = sorted({code[digit] for code in codes if code[:digit] == prefix})
            for code in allowed:
                step = float(table[user, node, code])
                grown.append((score + step, (*prefix, code), node * table.shape[2] + code))
        kept = sorted(grown, reverse=True)[:beams]
    return [(score, prefix) for score, prefix, _ in kept]


@pytest.mark.parametrize("beams", [1, 4, 30])
def test_narrow_beams_equal_the_loop(beams):
    catalog, model = make_catalog(ITEMS, DIGITS, CODEWORDS), Table(6)
    codes = [tuple(row) for row in catalog.codes_IK.tolist()]
    top, _ = Beam(model, catalog, BeamConfig(beams=beams)).decode(some_batch(), beams)
    for user in range(6):
        expected = loop_search(model, user, set(codes), beams)
        listed = [(score, item + 1) for score, code in expected for item in range(ITEMS) if codes[item] == code][:beams]
        assert top.item_Bk[user].tolist() == [item for _, item in listed]
        np.testing.assert_allclose(top.score_Bk[user], [score for score, _ in listed], atol=1e-5)


@pytest.mark.parametrize("beams", [1, 7, 50])
def test_beams_are_valid_distinct_and_full(beams):
    catalog = make_catalog(ITEMS, DIGITS, CODEWORDS)
    top, _ = Beam(Table(6), catalog, BeamConfig(beams=beams)).decode(some_batch(), beams)
    assert (top.item_Bk > 0).all() and torch.isfinite(top.score_Bk).all()
    assert all(len(set(row.tolist())) == beams for row in top.item_Bk)
    assert (top.score_Bk[:, 1:] <= top.score_Bk[:, :-1]).all()


def test_a_list_longer_than_the_catalogue_ends_in_nothing():
    catalog = make_catalog(5, DIGITS, CODEWORDS)
    top, _ = Beam(Table(6), catalog, BeamConfig(beams=9)).decode(some_batch(), 9)
    assert (top.item_Bk[:, 5:] == 0).all() and (top.score_Bk[:, 5:] == -math.inf).all()
    assert all(sorted(row[:5].tolist()) == [1, 2, 3, 4, 5] for row in top.item_Bk)
    with pytest.raises(ValueError, match="at least 10 beams"):
        Beam(Table(6), catalog, BeamConfig(beams=9)).decode(some_batch(), 10)


def test_codes_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="fewer"):
        Beam(Table(6), make_catalog(padded=True), BeamConfig())


# ---- with TIGER ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_tigers_full_beam_equals_teacher_forcing_every_item():
    catalog, batch = make_catalog(ITEMS, DIGITS, CODEWORDS), some_batch()
    torch.manual_seed(0)
    config = TigerConfig(width=16, layers=2, heads=2, head_width=8, inner=32)
    model = Tiger(config, catalog, max_length=8).eval()
    top, _ = Beam(model, catalog, BeamConfig(beams=ITEMS)).decode(batch, ITEMS)
    every = [model.target_loss(batch, torch.full_like(batch.user_B, item)) for item in range(1, ITEMS + 1)]
    score_BI = -DIGITS * torch.stack(every, dim=1)
    torch.testing.assert_close(top.score_Bk, score_BI.sort(dim=1, descending=True).values, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(top.score_Bk, score_BI.gather(1, top.item_Bk - 1), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_batch_gives_what_each_history_gives_alone():
    catalog, histories = make_catalog(ITEMS, DIGITS, CODEWORDS), make_histories([5, 9, 3, 14], ITEMS)
    from genrec_cli.data.sequences import eval_batches

    torch.manual_seed(0)
    config = TigerConfig(width=16, layers=2, heads=2, head_width=8, inner=32)
    beam = Beam(Tiger(config, catalog, max_length=8).eval(), catalog, BeamConfig(beams=20))
    user, at = histories.targets("test")

    def lists(batch_size: int) -> torch.Tensor:
        found = torch.zeros(len(user), 20, dtype=torch.long)
        for known in eval_batches(histories, user, at, max_length=8, batch_size=batch_size):
            found[known.batch.user_B] = beam.decode(known.batch, 20)[0].item_Bk
        return found

    assert torch.equal(lists(9), lists(1))
