"""How well a model reconstructs masked codes of histories, digit by digit, beside the frequency of the codewords.

Only items that no training row had are counted: those after the training part of a user. The baseline is the unigram
distribution of each digit over training interactions, with one more interaction for each codeword.

Legend: N packed items, M counted positions, K digits, V codewords, U users.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_cli.curriculum.history_masks import HistoryMasks
from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import EvalBatch, Histories
from genrec_cli.models.base import Model, Reconstructor

VALUES = ("codes", "loss", "accuracy", "unigram_loss", "unigram_accuracy")
"""Columns of :attr:`Sums.total_UKX`: a count, and sums over these codes."""
DRAWS = 1000


@dataclass(frozen=True)
class Sums:
    """``total_UKX``: for each user and digit the count of masked codes and sums over them, in the order of
    :data:`VALUES`."""

    total_UKX: np.ndarray

    def digits(self) -> list[dict[str, Any]]:
        """Means per digit."""
        rows = [{"digit": k + 1} | _means(total_X) for k, total_X in enumerate(self.total_UKX.sum(0))]
        return [row | {"codes": int(row["codes"])} for row in rows]

    def overall(self, seed: int) -> dict[str, Any]:
        """Means over all codes, and percentile bootstrap intervals of 95 % over users of loss and accuracy."""
        total_UX, generator = self.total_UKX.sum(1), np.random.default_rng(seed)
        users = len(total_UX)
        drawn = [_means(total_UX[generator.integers(0, users, users)].sum(0)) for _ in range(DRAWS)]
        found = _means(total_UX.sum(0))
        for name in ("loss", "accuracy"):
            values = [draw[name] for draw in drawn if draw[name] is not None]
            found[f"{name}_95"] = [float(value) for value in np.quantile(values, (0.025, 0.975))]
        return found | {"codes": int(found["codes"])}


def _means(total_X: np.ndarray) -> dict[str, Any]:
    count, *sums = map(float, total_X)
    return {"codes": count} | {
        name: value / count if count else None for name, value in zip(VALUES[1:], sums, strict=True)
    }


def codes(model: Model, item_X: Tensor) -> Tensor:
    """``code_XK`` of items; the one code of an item in a model of item ids is the item itself, from 0."""
    return model.codes_of(item_X) if "codes" in model.needs else item_X[..., None] - 1


def unigram(model: Model, catalog: Catalog) -> Tensor:
    """``logp_KV``: how often each codeword occurs in training interactions, each one more time."""
    item_I = torch.arange(1, catalog.items + 1, device=catalog.train_count_I.device)
    code_IK = codes(model, item_I)
    size = catalog.codewords if "codes" in model.needs else catalog.items
    count_KV = torch.ones(code_IK.shape[1], size, device=item_I.device)
    for k, code_I in enumerate(code_IK.unbind(1)):
        real_I = code_I >= 0  # text has padding
        count_KV[k].index_add_(0, code_I[real_I], catalog.train_count_I[real_I].to(count_KV.dtype))
    return (count_KV / count_KV.sum(1, keepdim=True)).log()


@torch.inference_mode()
def reconstruct(
    model: Model,
    catalog: Catalog,
    histories: Histories,
    batches: Iterable[EvalBatch],
    masks: HistoryMasks,
    device: torch.device,
    *,
    tick: Callable[[int], object] = lambda users: None,
) -> Sums:
    """Mask codes of whole histories (their targets too) and predict them.

    Args:
        model: a :class:`Reconstructor` in evaluation mode, on the device.
        batches: histories with all items of their users.
    """
    assert isinstance(model, Reconstructor)
    logp_KV = unigram(model, catalog)
    common_K, parts = logp_KV.argmax(1), []
    for known in batches:
        known = known.to(device)
        batch = known.batch
        mask_NK = masks.sample(batch.packing, model.maskable(batch))
        counted_N = _held_out(batch, known.row_B, histories) & mask_NK.any(1)
        at_M = counted_N.nonzero()[:, 0]
        total_BKX = torch.zeros(len(known.row_B), mask_NK.shape[1], len(VALUES), device=device, dtype=torch.float64)
        if len(at_M):
            real_MK, code_MK = mask_NK[at_M], codes(model, batch.item_N[at_M]).clamp_min(0)
            logp_MKV = model.reconstruct(batch, mask_NK, at_M)
            loss_MK = -logp_MKV.gather(2, code_MK[..., None])[..., 0]
            digit_K = torch.arange(len(common_K), device=device)
            columns = [torch.ones_like(loss_MK), loss_MK, logp_MKV.argmax(2) == code_MK]
            columns += [-logp_KV[digit_K, code_MK], common_K == code_MK]
            value_MKX = torch.stack([column.double() for column in columns], dim=2) * real_MK[..., None]
            total_BKX.index_add_(0, batch.packing.sequence_N[at_M], value_MKX)
        parts.append(total_BKX.cpu())
        tick(len(known.row_B))
    return Sums(torch.cat(parts).numpy())


def _held_out(batch: Batch, row_B: Tensor, histories: Histories) -> Tensor:
    """Which packed items come after the training part of their user."""
    row = row_B.cpu().numpy()
    held_B = torch.from_numpy((histories.length[row] - histories.train_end[row]).astype(np.int64)).to(row_B.device)
    packing = batch.packing
    from_end_N = packing.length_B[packing.sequence_N] - packing.position_N
    return from_end_N <= held_B[packing.sequence_N]
