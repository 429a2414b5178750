"""Exhaustive search in chunks and the graph's neighbours against slow references; memory by counting."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genrec_cli import registry
from genrec_cli.config import validate
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import DotScorer, ItemScorer
from genrec_cli.searches import exhaustive, neighbours, scores
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.graph import Graph, GraphConfig
from genrec_cli.searches.rank import UNLISTED
from genrec_cli.searches.running_top_k import BLOCK, RunningTopK, first
from genrec_cli.searches.scores import DenseScores, DotScores


class Largest(TorchDispatchMode):
    """Bytes of the largest storage that any operation made, views and arguments left out."""

    def __init__(self):
        super().__init__()
        self.bytes, self.by = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)]
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                size = x.untyped_storage().nbytes()
                self.bytes, self.by = max((self.bytes, self.by), (size, str(func)))
        return made


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(exhaustive, "SHORTEST", 2 * BLOCK)
    monkeypatch.setattr(exhaustive, "CELLS", {"cpu": 1, "cuda": 1})


def catalog_of(items: int, digits: int, codewords: int, seed: int, *, padded: bool, shared: bool) -> Catalog:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, codewords, (items, digits), generator=draw)
    if padded:
        codes[torch.arange(digits) >= torch.randint(1, digits + 1, (items, 1), generator=draw)] = -1
    return Catalog.of(torch.ones(items, dtype=torch.long), codes, codewords, shared=shared)


def plain(score_BI: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The list by a stable sort of everything."""
    score, column = score_BI.sort(dim=1, descending=True, stable=True)
    item = torch.where(score > -torch.inf, column + 1, 0)
    short = max(k - score.shape[1], 0)
    return torch.nn.functional.pad(item[:, :k], (0, short)), torch.nn.functional.pad(
        score[:, :k], (0, short), value=-torch.inf
    )


@pytest.mark.parametrize("seed", range(12))
def test_chunks_equal_the_whole_array(seed, short_chunks):
    draw = torch.Generator().manual_seed(seed)
    items, users = int(torch.randint(1, 700, (1,), generator=draw)), int(torch.randint(1, 40, (1,), generator=draw))
    k = int(torch.randint(0, 90, (1,), generator=draw))
    catalog = catalog_of(items, 3, 4, seed, padded=seed % 2 == 1, shared=seed % 4 == 1)
    search = Exhaustive(catalog)
    logp_BKV = (torch.randn(users, 3, 4, generator=draw) * 2).round().log_softmax(-1)
    score_BI = search.code_scores(logp_BKV)
    target_B = torch.randint(1, items + 1, (users,), generator=draw)
    cells = torch.randint(1, items + 1, (50,), generator=draw), torch.randint(0, users, (50,), generator=draw)
    excluded, scores = Excluded(*cells), search.code_scored(logp_BKV)
    left_BI, loss_B = score_BI.clone(), -score_BI[torch.arange(users), target_B - 1]
    left_BI[cells[1], cells[0] - 1] = -torch.inf
    found = search.rank_targets(scores, target_B, k, excluded=excluded)
    alone = search.rank_targets(scores, target_B, k)
    assert alone.left_out is None and torch.equal(torch.stack(alone.kept.rank), torch.stack(found.kept.rank))
    assert torch.equal(found.loss_B, loss_B) and torch.equal(alone.loss_B, loss_B)
    assert torch.equal(search.top(scores, k, excluded=excluded).item_Bk, found.left_out.top.item_Bk)
    group_I = catalog.groups
    for ranking, dense_BI in ((found.kept, score_BI), (found.left_out, left_BI)):
        item_Bk, score_Bk = plain(dense_BI, k)
        assert torch.equal(ranking.top.item_Bk, item_Bk), "of equal scores the lowest id is first"
        assert torch.equal(ranking.top.score_Bk, score_Bk)
        for user, target in enumerate(target_B.tolist()):
            row, own = dense_BI[user], dense_BI[user, target - 1]
            if own == -torch.inf:
                assert [int(x_B[user]) for x_B in ranking.rank] == [UNLISTED, 1, UNLISTED, 1]
                continue
            assert ranking.rank.above_B[user] == (row > own).sum()
            assert ranking.rank.ties_B[user] == (row == own).sum()
            assert ranking.rank.code_above_B[user] == len(group_I[row > own].unique()), "excluded in part, codes count"
            assert ranking.rank.code_ties_B[user] == len(group_I[row == own].unique())


@pytest.mark.parametrize("users", [1, 7, 70])
def test_dot_products_in_chunks_equal_the_whole_array(users, short_chunks):
    draw = torch.Generator().manual_seed(users)
    item_ID, query_BD = torch.randn(500, 16, generator=draw), torch.randn(users, 16, generator=draw)
    search = Exhaustive(Catalog(500, torch.ones(500, dtype=torch.long)))
    target_B = torch.randint(1, 501, (users,), generator=draw)
    found = search.rank_targets(DotScores(item_ID, query_BD), target_B, 10)
    score_BI = query_BD @ item_ID.t()
    twin = search.rank_targets(score_BI, target_B, 10)
    torch.testing.assert_close(
        found.loss_B, torch.nn.functional.cross_entropy(score_BI, target_B - 1, reduction="none")
    )
    assert torch.equal(found.kept.top.item_Bk, twin.kept.top.item_Bk)
    assert torch.equal(found.kept.rank.above_B, twin.kept.rank.above_B)
    assert (found.kept.rank.ties_B == 1).all(), "a target's score is the same number in its chunk"


def test_a_model_of_dot_products_scores_by_them():
    sasrec = registry.load("model", "sasrec")
    assert issubclass(sasrec, DotScorer) and issubclass(sasrec, ItemScorer)
    assert not issubclass(registry.load("model", "popular"), DotScorer)


def test_order_of_floats():
    value = torch.tensor([[0.0, -0.0, -1.5, 2.0, -torch.inf, 2.0, 1e-40, -1e-40, torch.inf]])
    assert first(value, 9).tolist() == [[8, 3, 5, 6, 0, 1, 7, 2, 4]]


def test_given_scores_are_not_written_to():
    score_BI = torch.zeros(1, 9)
    Exhaustive(Catalog(9, torch.ones(9, dtype=torch.long))).rank_targets(
        score_BI, torch.tensor([2]), 3, excluded=Excluded(torch.tensor([2]), torch.tensor([0]))
    )
    assert torch.equal(score_BI, torch.zeros(1, 9)) and DenseScores(score_BI).chunk(0, 9).shape == (9, 1)


@pytest.mark.parametrize("users", [4, 200])
def test_queries_in_less_precision_than_the_items(users):
    """Under autocast states have 16 bits and tables 32, in one product and in several."""
    item_ID, query_BD = torch.randn(3000, 8), torch.randn(users, 8).bfloat16()
    found_CB = DotScores(item_ID, query_BD).chunk(0, 3000)
    torch.testing.assert_close(found_CB, item_ID @ query_BD.float().t())


@pytest.mark.parametrize("kind", ["codes", "dot"])
def test_no_array_of_users_times_items(kind, short_chunks):
    items, users, digits = 4000, 300, 4
    catalog = catalog_of(items, digits, 8, 0, padded=False, shared=False)
    search = Exhaustive(catalog)
    assert len(search.groups.first_G) < items
    scores = DotScores(torch.randn(items, 8), torch.randn(users, 8))
    if kind == "codes":
        scores = search.code_scored(torch.randn(users, digits, 8).log_softmax(-1))
    excluded = Excluded(torch.randint(1, items + 1, (2000,)), torch.randint(0, users, (2000,)))
    with Largest() as largest:
        search.rank_targets(scores, torch.randint(1, items + 1, (users,)), 2, excluded=excluded)
    assert largest.bytes < users * items / 2, f"{largest.by} made {largest.bytes:,} bytes: a bool a cell is 1,200,000"
    with Largest() as dense:
        search.rank_targets(scores.chunk(0, items).t(), torch.randint(1, items + 1, (users,)), 2)
    assert dense.bytes >= 4 * users * items, "the counter sees such an array"


def clustered(items: int, digits: int, codewords: int) -> tuple[Catalog, "Vectors"]:
    """Items that share most codes with the others of their cluster; each code has a vector of its own direction."""
    draw = torch.Generator().manual_seed(0)
    centre_CK = torch.randint(0, codewords, (items // 20, digits), generator=draw)
    codes_IK = centre_CK[torch.randint(0, len(centre_CK), (items,), generator=draw)]
    other_IK = torch.rand(items, digits, generator=draw) < 0.2
    codes_IK = torch.where(other_IK, torch.randint(0, codewords, (items, digits), generator=draw), codes_IK)
    return Catalog.of(torch.ones(items, dtype=torch.long), codes_IK, codewords), Vectors(
        torch.randn(digits, codewords, 24, generator=draw)
    )


class Vectors:
    """A model that is only its code vectors."""

    def __init__(self, vectors_KVD):
        self.vectors_KVD = vectors_KVD

    def code_vectors(self):
        return self.vectors_KVD


def test_neighbours_are_the_most_similar_items(monkeypatch, short_chunks):
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    catalog, model = clustered(300, 4, 6)
    graph = Graph(model, catalog, GraphConfig(edges=12))
    unit_KVD = torch.nn.functional.normalize(model.vectors_KVD, dim=-1)
    vec_IKD = unit_KVD[torch.arange(4), catalog.codes_IK.long()]
    similar_II = (1 + torch.einsum("ikd,jkd->ijk", vec_IKD, vec_IKD)).mean(-1) / 2
    for item, found in enumerate(graph.neighbour_IE.long()):
        assert found[0] == item and len(found.unique()) == 12, "each item is first in its own row"
        others = torch.cat([similar_II[item, :item], similar_II[item, item + 1 :]])
        torch.testing.assert_close(similar_II[item, found[1:]], others.topk(11).values)


def test_the_graph_makes_no_array_of_items_times_items_or_users(short_chunks, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 64)
    catalog, model = clustered(4000, 4, 16)
    config = GraphConfig(edges=5, beams=5, steps=2)
    with Largest() as largest:
        graph = Graph(model, catalog, config)
    assert largest.bytes < 4000 * 4000 / 8, (
        f"{largest.by} made {largest.bytes:,} bytes: a bit for each two items is 2,000,000"
    )
    logp_BKV = torch.randn(300, 4, 16).log_softmax(-1)
    with Largest() as largest:
        top, visited_B = graph.walk(logp_BKV, torch.arange(300), 5)
    assert largest.bytes < 300 * 4000, f"{largest.by} made {largest.bytes:,} bytes"
    assert (visited_B <= 5 + 2 * 25).all() and (visited_B > 5).all()
    assert top.item_Bk.shape == (300, 5)
    monkeypatch.setattr("genrec_cli.searches.graph.LOOK_UPS", 1)
    again, visited = graph.walk(logp_BKV, torch.arange(300), 5)
    assert torch.equal(again.item_Bk, top.item_Bk) and torch.equal(visited, visited_B), "users one by one"


@pytest.mark.parametrize("word", ["steps=1000000", "edges=100000", "beams=10000000", "beams=0"])
def test_a_graph_search_that_would_never_end_is_refused(word):
    name, value = word.split("=")
    with pytest.raises(ConfigError, match=f"search.{name}"):
        validate(GraphConfig, "search", {name: int(value)})


def test_visited_counts_distinct_items():
    catalog, model = clustered(40, 3, 5)
    graph = Graph(model, catalog, GraphConfig(edges=4, beams=6, steps=2))
    from genrec_cli.searches.graph import starts

    logp_BKV = torch.randn(3, 3, 5).log_softmax(-1)
    beam_BM = starts(torch.arange(3), 6, 40, 0)
    score_BI = graph.scorer.code_scores(logp_BKV)
    visited_B = graph.walk(logp_BKV, torch.arange(3), 6)[1]
    for user in range(3):
        beam, seen = set(beam_BM[user].tolist()), set(beam_BM[user].tolist())
        for _ in range(2):
            near = {int(other) for item in beam for other in graph.neighbour_IE[item]}
            seen |= near
            beam = set(sorted(near, key=lambda item, user=user: -float(score_BI[user, item]))[:6])
        assert visited_B[user] == len(seen)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_sorting_whole_chunks_finds_what_blocks_find(k):
    """What CUDA does with short chunks; many scores are equal, and some items are left out."""
    score_IB = torch.randint(-3, 4, (150, 5), generator=torch.Generator().manual_seed(0)).float()
    score_IB[20:90, 2] = -torch.inf
    score_IB[::3] *= -1  # 0 and -0 are equal
    found = []
    for direct in (0, 1 << 16):
        top_k = RunningTopK(5, k, torch.device("cpu"), direct=direct)
        for begin in (0, 100):
            top_k.add(score_IB[begin : begin + 100], begin)
        found.append(top_k)
    assert torch.equal(found[0].item_Bk, found[1].item_Bk) and torch.equal(found[0].score_Bk, found[1].score_Bk)


def test_dot_products_in_parts_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dots = DotScores(torch.randn(301, 8), torch.randn(7, 8))
    at_once = dots.chunk(3, 298)
    monkeypatch.setattr(scores, "PART", 7 * 16)
    torch.testing.assert_close(dots.chunk(3, 298), at_once)
