"""Keys and values of beams that grow token by token.

Legend: B rows, M beams, l tokens of a beam, S tokens of all beams of a row, H heads, d head width.
"""

import torch
from torch import Tensor


class Cache:
    """Keys and values of all beams' tokens so far, and which of them each beam stems from.

    Beams that branch, die or change places move nothing: S tokens of a row stay where they were written, and a
    beam's newest token sees its own ancestors among them.
    """

    def __init__(self) -> None:
        self.keys: list[tuple[Tensor, Tensor]] = []
        """For each block ``k_BHSd`` and ``v_BHSd``."""
        self.ancestor_BMl: Tensor | None = None
        """Where among the S tokens each beam's l tokens lie, the newest last."""

    def grow(self, parent_BM: Tensor) -> None:
        """One more token a beam: beam m goes on from what beam ``parent_BM[b, m]`` was (no matter, at first)."""
        newest_BM1 = torch.arange(parent_BM.shape[1], device=parent_BM.device).expand_as(parent_BM)[..., None]
        if self.ancestor_BMl is None:
            self.ancestor_BMl = newest_BM1
            return
        parents_BMl = parent_BM[..., None].expand(-1, -1, self.ancestor_BMl.shape[2])
        older_BMl = self.ancestor_BMl.gather(1, parents_BMl)
        self.ancestor_BMl = torch.cat([older_BMl, newest_BM1 + self.keys[0][0].shape[2]], dim=2)

    def bias(self, bias_H1l: Tensor) -> Tensor:
        """``bias_BHMS``: relative positions' for a beam's own tokens, -inf for those of others."""
        beams, places = self.ancestor_BMl.shape[1:]
        tokens = beams + (self.keys[0][0].shape[2] if self.keys else 0)
        at_BHMl = self.ancestor_BMl[:, None].expand(-1, len(bias_H1l), -1, -1)
        nothing_BHMS = bias_H1l.new_full((*at_BHMl.shape[:3], tokens), -torch.inf)
        return nothing_BHMS.scatter(3, at_BHMl, bias_H1l.expand(len(at_BHMl), -1, beams, places))

    def append(self, block: int, k_BHMd: Tensor, v_BHMd: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a block, with those of the newest tokens behind the rest."""
        if block == len(self.keys):
            self.keys.append((k_BHMd, v_BHMd))
        else:
            k_BHSd, v_BHSd = self.keys[block]
            self.keys[block] = torch.cat([k_BHSd, k_BHMd], dim=2), torch.cat([v_BHSd, v_BHMd], dim=2)
        return self.keys[block]
