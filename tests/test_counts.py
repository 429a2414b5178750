"""The count models against slow references: pair by pair, user by user, neighbour by neighbour."""

from collections import defaultdict
from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch
from conftest import make_histories

from genrec_cli.config import validate
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine.checkpoint import load_weights, save_weights
from genrec_cli.engine.warm_start import freeze
from genrec_cli.models import neighbours, transitions
from genrec_cli.models.base import SparseScorer
from genrec_cli.models.neighbours import Neighbours, NeighboursConfig, nearest
from genrec_cli.models.transitions import Transitions, TransitionsConfig, count_transitions
from genrec_cli.nn.sparse_scores import ItemWeights
from genrec_cli.searches import exhaustive
from genrec_cli.searches.excluded import Excluded
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.running_top_k import BLOCK
from genrec_cli.searches.scores import SparseScores

ITEMS = 30
SETTINGS = [
    {},
    {"window": 1, "backward": 0.0, "length_power": 1.0},
    {"window": 4, "decay": 0.0, "backward": 2.0, "row_power": 0.0, "length_power": 0.0},
    {"window": 3, "decay": 1.0, "pairs": 3, "column_power": 1.0},
]


def users(seed: int = 0):
    """Histories with repeated items, and users of one or no training item."""
    return make_histories([5, 9, 3, 2, 14, 6, 4, 7, 40, 12], ITEMS, seed=seed)


def catalog(width: int = 5, items: int = ITEMS, seed: int = 0) -> Catalog:
    vector_ID = torch.randn(items, width, generator=torch.Generator().manual_seed(seed))
    vector_RE = torch.cat([torch.zeros(1, width), vector_ID])
    return Catalog(items, torch.zeros(items, dtype=torch.long), vector_RE=vector_RE)


def slow_weights(histories, config) -> dict[tuple[int, int], float]:
    """``weight[a, b]`` by loops over users and pairs of positions."""
    total: dict[tuple[int, int], float] = defaultdict(float)
    for offset, n in zip(histories.offset, histories.train_end, strict=True):
        item = [int(x) for x in histories.item[offset : offset + n]]
        for i in range(n):
            for j in range(i + 1, min(i + config.window, n - 1) + 1):
                weight = config.decay ** (j - i - 1) / log2(n + 2) ** config.length_power
                for pair, factor in (((item[i], item[j]), 1), ((item[j], item[i]), config.backward)):
                    if weight * factor > 0:
                        total[pair] += weight * factor
    row, column = defaultdict(float), defaultdict(float)
    for (a, b), weight in total.items():
        row[a] += weight
        column[b] += weight
    scaled = {(a, b): w / row[a] ** config.row_power / column[b] ** config.column_power for (a, b), w in total.items()}
    kept = {}
    for a in row:
        best = sorted(((-w, b) for (first, b), w in scaled.items() if first == a))[: config.pairs]
        kept |= {(a, b): -w for w, b in best}
    return kept


def slow_neighbours(vector_ID, config) -> dict[tuple[int, int], float]:
    vector_ID = vector_ID.double().numpy()
    found = {}
    for a, x in enumerate(vector_ID):
        cosine = [(x @ y / np.linalg.norm(x) / np.linalg.norm(y), b) for b, y in enumerate(vector_ID) if b != a]
        for value, b in sorted(cosine, reverse=True)[: config.neighbours]:
            found[a + 1, b + 1] = config.weight * max(value, 0) ** config.power
    return found


def slow_scores(weights, history, config) -> list[float]:
    """``score_I`` of one history (oldest item first)."""
    score = [0.0] * ITEMS
    for age, a in enumerate(reversed(history)):
        for b in range(1, ITEMS + 1):
            score[b - 1] += config.age_decay**age * weights.get((a, b), 0.0)
    return score


def stored(table: ItemWeights) -> dict[tuple[int, int], float]:
    a_P, b_P, weight_P = table.entries(torch.arange(1, ITEMS + 1))
    assert (a_P.diff() >= 0).all()
    return {(a + 1, b): w for a, b, w in zip(a_P.tolist(), b_P.tolist(), weight_P.tolist(), strict=True)}


@pytest.mark.parametrize("chunk", [1, 7, 1 << 19])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_equal_a_loop_over_pairs(seed, settings, chunk, monkeypatch):
    """However many positions are counted at a time, and where one item has more positions than that."""
    monkeypatch.setattr(transitions, "CHUNK", chunk)
    histories, config = users(seed), validate(TransitionsConfig, "model", settings)
    model = Transitions(config, catalog(), max_length=50)
    model.fit(catalog(), histories)
    expected = slow_weights(histories, config)
    if "pairs" in settings:  # which of equal weights is kept is rounding's choice
        found = stored(model.transitions)
        for a in range(1, ITEMS + 1):
            assert [w for (first, _), w in sorted(found.items(), key=lambda x: -x[1]) if first == a] == pytest.approx(
                [w for (first, _), w in sorted(expected.items(), key=lambda x: -x[1]) if first == a]
            )
        return
    assert stored(model.transitions) == pytest.approx(expected)


def test_only_the_training_part_is_counted():
    histories = users()
    other = histories.item.copy()
    for offset, end, length in zip(histories.offset, histories.train_end, histories.length, strict=True):
        other[offset + end : offset + length] = other[offset + end : offset + length] % ITEMS + 1
    assert (other != histories.item).any()
    for mine, theirs in zip(
        count_transitions(histories, ITEMS, TransitionsConfig()),
        count_transitions(replace(histories, item=other), ITEMS, TransitionsConfig()),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_histories_without_a_pair_give_an_empty_table():
    histories = make_histories([3, 3], ITEMS)
    model = Transitions(TransitionsConfig(), catalog(), max_length=50)
    model.fit(catalog(), histories)
    assert stored(model.transitions) == {}
    user, at = histories.targets("test")
    batch = next(eval_batches(histories, user, at, max_length=50, batch_size=9)).batch
    assert torch.equal(model.item_scores(batch), torch.zeros(2, ITEMS))


@pytest.mark.parametrize("max_length", [4, 50])
@pytest.mark.parametrize("kind", [Transitions, Neighbours])
def test_scores_equal_a_loop_over_histories(kind, max_length):
    histories, config = users(), kind.Config(age_decay=0.7)
    model = kind(config, catalog(), max_length=max_length)
    model.fit(catalog(), histories)
    weights = slow_weights(histories, config)
    if kind is Neighbours:
        for pair, weight in slow_neighbours(catalog().vector_RE[1:], config).items():
            weights[pair] = weights.get(pair, 0.0) + weight
    user, at = histories.targets("test")
    for known in eval_batches(histories, user, at, max_length=max_length, batch_size=4):
        score_BI = model.item_scores(known.batch)
        for row, u in enumerate(known.batch.user_B.tolist()):
            begin = histories.offset[u]
            history = [int(x) for x in histories.item[begin : begin + at[user == u][0]]][-max_length:]
            assert score_BI[row].tolist() == pytest.approx(slow_scores(weights, history, config), abs=1e-6)


def fitted(seed: int = 0, **settings) -> Neighbours:
    model = Neighbours(NeighboursConfig(neighbours=4, **settings), catalog(seed=seed), max_length=50)
    model.fit(catalog(seed=seed), users(seed))
    return model.eval()


def test_exact_search_reads_the_sparse_scores(monkeypatch):
    """Ranks, lists and losses are those of the whole array, in chunks of few items, with and without excluded items."""
    monkeypatch.setattr(exhaustive, "SHORTEST", BLOCK)
    monkeypatch.setattr(exhaustive, "CELLS", {"cpu": 1, "cuda": 1})
    items = 3 * BLOCK + 5
    histories = make_histories([5, 9, 3, 14, 6, 40, 12], items)
    model = Transitions(TransitionsConfig(), catalog(items=items), max_length=50)
    model.fit(catalog(items=items), histories)
    assert isinstance(model, SparseScorer)
    user, at = histories.targets("test")
    known = next(eval_batches(histories, user, at, max_length=50, batch_size=99, exclude_seen=True))
    search = Exhaustive(catalog(items=items))
    scores = search.scored(model, known.batch)
    assert isinstance(scores, SparseScores)
    score_BI = model.item_scores(known.batch)
    assert 0 < (score_BI > 0).sum() < score_BI.numel() / 2
    assert torch.equal(torch.cat([scores.chunk(i, i + 50) for i in range(0, items, 50)]).t(), score_BI)
    for item in range(1, items + 1):
        assert torch.equal(scores.of(torch.full_like(known.target_B, item)), score_BI[:, item - 1])
    for excluded in (None, Excluded(*known.seen)):
        found = search.rank_targets(scores, known.target_B, 5, excluded=excluded)
        twin = search.rank_targets(score_BI, known.target_B, 5, excluded=excluded)
        assert torch.equal(found.loss_B, twin.loss_B) and (found.left_out is None) == (excluded is None)
        for mine, theirs in [(found.kept, twin.kept)] + ([(found.left_out, twin.left_out)] if excluded else []):
            assert torch.equal(mine.top.item_Bk, theirs.top.item_Bk)
            assert all(torch.equal(*pair) for pair in zip(mine.rank, theirs.rank, strict=True))


def test_each_cell_is_given_once_in_ascending_order():
    model, histories = fitted(), users()
    user, at = histories.targets("test")
    batch = next(eval_batches(histories, user, at, max_length=50, batch_size=99)).batch
    cell_S, score_S = model.sparse_scores(batch)
    assert (cell_S.diff() > 0).all() and cell_S[-1] < ITEMS * len(user)
    assert score_S.dtype == torch.float32 and len(score_S) == len(cell_S)


def test_a_file_gives_the_tables_their_sizes(tmp_path):
    model, other = fitted(), Neighbours(NeighboursConfig(neighbours=4), catalog(), max_length=50)
    save_weights(tmp_path / "model.safetensors", model)
    load_weights(tmp_path / "model.safetensors", other)
    assert stored(other.transitions) == stored(model.transitions) != {}
    assert stored(other.similar) == stored(model.similar) != {}


def test_a_model_without_parameters_has_nothing_to_freeze():
    assert freeze(Transitions(TransitionsConfig(), catalog(), max_length=50), ()) == []


# ---- nearest vectors -----------------------------------------------------------------------------------


def brute(vec_ID, number):
    unit_ID = torch.nn.functional.normalize(vec_ID.double(), dim=1)
    return (unit_ID @ unit_ID.t()).fill_diagonal_(-torch.inf).topk(number, dim=1)


@pytest.mark.parametrize("cells", [1, 1 << 24])
@pytest.mark.parametrize("probes", [None, 10**6])
def test_nearest_items_equal_all_cosines(probes, cells, monkeypatch):
    """In chunks of any size; where all clusters are searched, they change nothing."""
    monkeypatch.setattr(neighbours, "CELLS", cells)
    vec_ID = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
    item_Ik, cosine_Ik = nearest(vec_ID, 7, probes=probes)
    cosine, row = brute(vec_ID, 7)
    assert torch.equal(item_Ik.long(), row + 1)
    torch.testing.assert_close(cosine_Ik.double(), cosine, atol=1e-6, rtol=1e-6)


def test_few_clusters_find_most_neighbours():
    """Items around 40 centres: their neighbours share their cluster."""
    draw = torch.Generator().manual_seed(2)
    centre = torch.randn(40, 16, generator=draw)
    vec_ID = centre[torch.randint(0, 40, (2000,), generator=draw)] + 0.3 * torch.randn(2000, 16, generator=draw)
    item_Ik, _ = nearest(vec_ID, 10, probes=2)
    row = brute(vec_ID, 10)[1] + 1
    found = (item_Ik.long()[:, :, None] == row[:, None, :]).any(1).float().mean()
    assert 0.7 < found < 1


def test_clusters_of_fewer_items_than_neighbours_leave_places_without_weight():
    vec_ID = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    item_Ik, cosine_Ik = nearest(vec_ID, 30, probes=1)
    assert (cosine_Ik == -torch.inf).any() and int(item_Ik.min()) >= 1
    own = (item_Ik == torch.arange(1, 41)[:, None]) & (cosine_Ik > -torch.inf)
    assert not own.any(), "no item is its own neighbour"


def test_large_catalogues_are_searched_in_clusters():
    exact, clustered = fitted(), fitted(exact_items=ITEMS - 1, probes=1)
    assert stored(exact.similar) == stored(fitted(exact_items=ITEMS).similar)
    assert stored(exact.similar) != stored(clustered.similar)


def test_items_without_a_vector_have_no_neighbours():
    known = catalog()
    known.vector_RE[4] = 0
    model = Neighbours(NeighboursConfig(neighbours=50), known, max_length=50)
    model.fit(known, users())
    weight = stored(model.similar)
    assert len({b for a, b in weight if a == 1}) == ITEMS - 1, "as many as there are"
    assert all(w == 0 for (a, b), w in weight.items() if 4 in (a, b))
