"""Evaluation of an approximate decoder: ranks come from its lists, since it knows no other."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import EvalBatch
from genrec_cli.decoders.base import Decoder
from genrec_cli.engine.evaluation import Outcome


@torch.inference_mode()
def evaluate_lists(
    decoder: Decoder,
    catalog: Catalog,
    batches: Iterable[EvalBatch],
    device: torch.device,
    exact: Outcome,
    *,
    missing: int,
) -> tuple[Outcome, dict[str, float]]:
    """The outcome by a decoder's lists, and how they compare with the exact ones.

    Args:
        exact: the exhaustive outcome of the same batches.
        missing: rank of a target that is in no list; at least every cutoff.
    """
    group_I = catalog.groups()
    k = exact.item.shape[1]
    parts, figures = [], []
    for known in batches:
        target_B = known.target_B.to(device)
        top, figure = decoder.decode(known.batch.to(device), k)
        code_Bk = torch.where(top.item_Bk > 0, group_I[top.item_Bk - 1], -1)
        above_B = list_rank(top.item_Bk, target_B, missing)
        parts.append((*top, above_B, code_rank(code_Bk, group_I[target_B - 1], missing)))
        figures.append(figure)
    item, score, above, code_above = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    one = np.ones_like(above)
    outcome = Outcome(exact.user, exact.target, above, one, code_above, one, exact.loss, item, score)
    hits = (item[:, :, None] == exact.item[:, None, :]) & (item[:, :, None] > 0)
    found: dict[str, Any] = {"recall_against_exact": float(hits.any(1).mean())}
    found |= {name: float(torch.cat([f[name] for f in figures]).double().mean()) for name in figures[0]}
    return outcome, found


def list_rank(item_Bk: Tensor, target_B: Tensor, missing: int) -> Tensor:
    """Position of the target in each list, from 0; ``missing`` where it is not there."""
    hit_Bk = item_Bk == target_B[:, None]
    return torch.where(hit_Bk.any(1), hit_Bk.int().argmax(1), missing)


def code_rank(code_Bk: Tensor, target_B: Tensor, missing: int) -> Tensor:
    """The same at code level: items with equal codes count as one. A code of -1 stands for no item."""
    hit_Bk = code_Bk == target_B[:, None]
    new_Bk = torch.ones_like(hit_Bk)
    new_Bk[:, 1:] = ~(code_Bk[:, 1:, None] == code_Bk[:, None, :]).tril().any(-1)
    place_Bk = new_Bk.cumsum(1) - 1
    position_B = hit_Bk.int().argmax(1, keepdim=True)
    return torch.where(hit_Bk.any(1), place_Bk.gather(1, position_B)[:, 0], missing)
