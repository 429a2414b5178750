"""Entropies of a model of codes on a fixed sample of training histories, after each validation.

The pass has no dropout, masks or gradient and draws no random number, so that a run keeps its bits. It costs less than
a hundredth of an epoch. On a generated shop the entropies are also compared with the planted labels.

Legend: N packed items, K digits, T the longest history that the model reads.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec_cli.data.batch import Batch
from genrec_cli.data.labels import Labels, areas
from genrec_cli.data.sequences import Histories, drawn, eval_batches
from genrec_cli.engine.optim import TrainConfig

FRACTION, MIN_USERS, MAX_USERS = 1 / 40, 32, 256  # users in the sample: this fraction of all, within these bounds
READ = 5  # a position that fewer histories of the sample reach has no mean, which would be noise
BATCH = 64


def sample(histories: Histories, *, max_length: int, users: int, seed: int) -> list[Batch]:
    """Training histories (their last ``max_length`` items) of users drawn by the seed, packed, on the host."""
    user = np.sort(drawn(histories.train_end, 2, users, seed))
    at = histories.train_end[user].astype(np.int64)
    return [known.batch for known in eval_batches(histories, user, at, max_length=max_length, batch_size=BATCH)]


@torch.no_grad()
def measure(model: Any, batch: Batch) -> Tensor:
    """``entropy_NK`` in nats of a batch on the device of an :class:`EntropyModel`; restores the model's mode."""
    was_training = model.training
    model.eval()
    entropy_NK = model.entropies(batch).float()
    model.train(was_training)
    return entropy_NK


class EntropyProbe:
    """The columns ``entropy/…`` of the log: means over a sample that the run's seed draws."""

    def __init__(
        self, histories: Histories, device: torch.device, config: TrainConfig, labels: Labels | None = None
    ) -> None:
        users = int(np.clip(FRACTION * histories.users, MIN_USERS, MAX_USERS))
        batches = sample(histories, max_length=config.max_length, users=users, seed=config.seed)
        self.batches, self.max_length = [batch.to(device) for batch in batches], config.max_length
        self.kind_N = None if labels is None else labels.kinds(batches)

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """``entropy/mean``, ``entropy/position`` (T values, None where fewer than READ histories reach),
        ``entropy/digit``; with labels ``entropy/auc_noise`` and ``entropy/auc_transition``."""
        entropy_NK = torch.cat([measure(model, batch) for batch in self.batches]).cpu().double()
        position_N = torch.cat([batch.packing.position_N for batch in self.batches]).cpu()
        total_T = entropy_NK.new_zeros(self.max_length).index_add_(0, position_N, entropy_NK.mean(1))
        count_T = torch.bincount(position_N, minlength=self.max_length)
        totals = zip(total_T.tolist(), count_T.tolist(), strict=True)
        found = {} if self.kind_N is None else areas(entropy_NK.mean(1).numpy(), self.kind_N)
        return {
            "entropy/mean": float(entropy_NK.mean()),
            "entropy/position": [round(total / count, 5) if count >= READ else None for total, count in totals],
            "entropy/digit": [round(value, 5) for value in entropy_NK.mean(0).tolist()],
            **{f"entropy/auc_{name}": round(area, 5) for name, area in found.items() if area is not None},
        }
