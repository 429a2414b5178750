"""Settings of the dense side of items (``nn/dense_items.py``), for the models that read codes."""

from typing import Any

from genrec_cli.config import Natural, Section
from genrec_cli.data.catalog import Catalog
from genrec_cli.errors import ConfigError
from genrec_cli.models.base import Need
from genrec_cli.models.neighbours import pair_weights
from genrec_cli.nn.dense_items import DenseItems
from genrec_cli.nn.item_graph import GraphEmbedding


class DenseConfig(Section):
    """What an item has at the input beside its pooled codes."""

    dense_input: bool = False
    """Whether an item's text vector, projected, is added to its pooled codes; needs vectors."""
    free_vectors: bool = False
    """Whether a free vector per item, which starts at zero, is added to its pooled codes. Such a run cannot read other
    items."""
    graph_edges: Natural = 0
    """Edges per item of the item graph of the free vectors; needs vectors; 0: no graph."""

    def dense_needs(self) -> frozenset[Need]:
        """What the dense side needs besides the codes."""
        return frozenset({"vectors"}) if self.dense_input or self.graph_edges else frozenset()

    def check_dense(self) -> None:
        """Raises ConfigError for a graph without free vectors."""
        if self.graph_edges and not self.free_vectors:
            problem = f"model.graph_edges = {self.graph_edges} is a graph of free vectors, which are off."
            raise ConfigError(problem, hint="--set model.free_vectors=true")

    def dense_items(self, catalog: Catalog, width: int) -> DenseItems | None:
        """The dense side; None if it is off."""
        if not (self.dense_input or self.free_vectors):
            return None
        text_RE = catalog.vector_RE if self.dense_input else None
        return DenseItems(catalog.items, width, text_RE, free=self.free_vectors, edges=self.graph_edges)


def fit_graph(dense: DenseItems | None, catalog: Catalog, histories: Any) -> None:
    """Fill the item graph of the free vectors, if there is one, from the training histories and the text vectors."""
    if dense is not None and isinstance(dense.free, GraphEmbedding):
        dense.free.fill(pair_weights(catalog, histories))
