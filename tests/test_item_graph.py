"""The item graph: vectors and gradients against a dense matrix, its edges, and what a run keeps of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import make_catalog, make_histories
from shop import TINY, genrec, small_codes

from genrec_cli.models.caser import Caser, CaserConfig
from genrec_cli.models.neighbours import Neighbours, NeighboursConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.nn.item_graph import GraphEmbedding

EDGES, WIDTH = 4, 8
CATALOG = make_catalog()
HISTORIES = make_histories([5, 9, 3, 14, 6, 4, 7, 12] * 4, CATALOG.items)


def counted() -> Neighbours:
    counts = Neighbours(NeighboursConfig(neighbours=6), CATALOG, max_length=8)
    counts.fit(CATALOG, HISTORIES)
    return counts


def filled(extra: int = 0) -> GraphEmbedding:
    torch.manual_seed(0)
    table = GraphEmbedding(CATALOG.items, WIDTH, EDGES, extra=extra)
    table.fill(counted().tables())
    return table


def dense() -> torch.Tensor:
    """``A[i, b]`` by its definition."""
    both = torch.zeros(CATALOG.items, CATALOG.items)
    for table in counted().tables():
        row_P, item_P, weight_P = table.entries(torch.arange(1, CATALOG.items + 1))
        both.index_put_((row_P, item_P - 1), weight_P, accumulate=True)
    both = both + both.t()
    smallest = both.sort(dim=1, descending=True).values[:, EDGES - 1 : EDGES]
    return F.normalize(both.where(both >= smallest, torch.zeros(())), dim=1)


def test_vectors_are_the_table_and_its_neighbours() -> None:
    table, matrix = filled(), dense()
    torch.testing.assert_close(table.vectors(), table.weight + matrix @ table.weight)
    assert (table.weight_IE > 0).sum(1).min() >= 1, "each item has a neighbour by text at least"
    torch.testing.assert_close(table(torch.tensor([[3, 0], [5, 3]])), table.vectors()[torch.tensor([[3, 0], [5, 3]])])


def test_the_gradient_is_that_of_the_matrix() -> None:
    table, matrix = filled(), dense()
    upstream = torch.randn(CATALOG.items, WIDTH)
    (table.vectors() * upstream).sum().backward()
    torch.testing.assert_close(table.weight.grad, upstream + matrix.t() @ upstream)
    table.weight.grad = None
    rows = torch.tensor([7, 2, 7])
    (table(rows) * upstream[:3]).sum().backward()
    chosen = torch.eye(CATALOG.items)[rows] + matrix[rows]
    torch.testing.assert_close(table.weight.grad, chosen.t() @ upstream[:3])


def test_special_tokens_and_an_empty_graph_are_plain() -> None:
    table = filled(extra=2)
    last = torch.tensor([CATALOG.items, CATALOG.items + 1])
    assert torch.equal(table(last), table.weight[last])
    empty = GraphEmbedding(CATALOG.items, WIDTH, EDGES)
    assert torch.equal(empty.vectors(), empty.weight)
    empty.vectors().sum().backward()
    assert torch.equal(empty.weight.grad, torch.ones_like(empty.weight))


def test_loaded_weights_bring_the_graph() -> None:
    table, other = filled(), GraphEmbedding(CATALOG.items, WIDTH, EDGES)
    other.load_state_dict(copy.deepcopy(table.state_dict()))
    assert torch.equal(other.vectors(), table.vectors())
    for one in (table, other):
        one.vectors().square().sum().backward()
    assert torch.equal(other.weight.grad, table.weight.grad)


def test_more_edges_than_items_are_cut() -> None:
    assert GraphEmbedding(3, 2, 100).neighbour_IE.shape == (3, 2)


def test_a_model_without_fit_is_the_model_without_a_graph() -> None:
    torch.manual_seed(0)
    plain = SasRec(SasRecConfig(width=16), CATALOG, max_length=8)
    torch.manual_seed(0)
    graph = SasRec(SasRecConfig(width=16, graph_edges=4), CATALOG, max_length=8)
    assert torch.equal(plain.item_vectors(), graph.item_vectors())


def test_tied_vectors_of_caser_are_scored_with_the_graph() -> None:
    model = Caser(CaserConfig(width=16, output="tied", graph_edges=4), CATALOG, max_length=8)
    model.fit(CATALOG, HISTORIES)
    assert torch.equal(model.item_vectors()[:, :-1], model.item.vectors())
    assert not torch.equal(model.item.vectors(), model.item.weight)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return small_codes(tmp_path_factory.mktemp("graph"))


def test_a_run_with_a_graph_is_trained_evaluated_and_recommends(shop) -> None:
    words = ["--model", "sasrec", *TINY, "--epochs", "1", "--set", "model.graph_edges=5", "--label", "graph"]
    assert genrec(shop, "train", *words).code == 0
    assert genrec(shop, "evaluate", "--run", "graph").code == 0
    assert genrec(shop, "recommend", "--run", "graph", "--k", "2").code == 0


def test_items_made_from_codes_have_no_graph(shop) -> None:
    answer = genrec(shop, "train", "--model", "vqrec", *TINY, "--set", "model.graph_edges=5", "--codes", "opq4x16-lsa")
    assert answer.code == 3 and "model.graph_edges=0" in answer.err
