"""Small catalogues and histories made in memory."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories
from genrec_cli.models.base import Model

VECTOR_WIDTH, ATTRIBUTES, USERS = 6, 5, 160


def make_histories(lengths: Sequence[int], items: int, *, seed: int = 0) -> Histories:
    """Leave-one-out histories of random items, with rising times."""
    random = np.random.default_rng(seed)
    length = np.array(lengths)
    offset = np.cumsum(length) - length
    item = random.integers(1, items + 1, int(length.sum())).astype("uint32")
    time = 1_000_000_000 + np.cumsum(random.integers(0, 10**6, len(item)))
    return Histories(item, offset, length, length - 2, length - 2, length - 1, time)


def make_catalog(
    items: int = 30, digits: int = 4, codewords: int = 8, *, seed: int = 0, padded: bool = False, shared: bool = False
) -> Catalog:
    """Random codes, two of them equal; ``padded``: items of 1 to K codes; ``shared``: one codebook for all digits."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, codewords, (items, digits), generator=generator)
    if padded:
        length = torch.randint(1, digits + 1, (items, 1), generator=generator)
        codes[torch.arange(digits) >= length] = -1
    codes[1] = codes[0]
    return complete(Catalog.of(torch.arange(items), codes, codewords, shared=shared))


def all_codes(digits: int = 2, codewords: int = 5) -> Catalog:
    """One item for each sequence of K codes, so that the probabilities of all items add up to one."""
    codes = torch.tensor(list(itertools.product(range(codewords), repeat=digits)))
    return complete(Catalog.of(torch.arange(len(codes)), codes, codewords))


def complete(catalog: Catalog) -> Catalog:
    """A catalogue with all inputs that a model may need."""
    generator = torch.Generator().manual_seed(1)
    vector_RE = torch.randn(catalog.items + 1, VECTOR_WIDTH, generator=generator)
    attribute_RA = torch.randint(0, ATTRIBUTES + 1, (catalog.items + 1, 2), generator=generator).sort(1).values
    vector_RE[0], attribute_RA[[0, -1]] = 0, 0  # the last item has no attribute
    field_RA = torch.tensor([-1, 0, 0, 1, 1, 1])[attribute_RA]
    more: dict[str, Any] = {"attribute_RA": attribute_RA, "attributes": ATTRIBUTES, "field_RA": field_RA}
    return replace(catalog, vector_RE=vector_RE, fields=("brand", "category"), users=USERS, **more)


class FixedMasks:
    """A mask sampler without a draw: the mask depends on the items alone, however the batch is cut."""

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        if model.masking == "target":
            assert batch.target_N is not None
            item_X, digits = batch.target_N[batch.learn_M], model.code_RK.shape[1]
            mask_XK = (item_X[:, None] + torch.arange(digits)) % 3 == 0
            mask_XK[:, 0] |= ~mask_XK.any(1)
            return mask_XK
        candidate_NK = model.maskable(batch)
        return candidate_NK & ((batch.item_N[:, None] + torch.arange(candidate_NK.shape[1])) % 3 == 0)
