"""KV cache of beam search: keys and values of beams that grow token by token.

Legend: B rows, M beams, l tokens of a beam, S tokens of all beams of a row, H heads, d head width.
"""

import torch
from torch import Tensor


class Cache:
    """Keys and values of the tokens of all beams. They are never reordered: the newest token of a beam attends to its
    ancestors among the S tokens of its row."""

    ancestor_BMl: Tensor
    """Index among the S tokens of each of a beam's l tokens, the newest last."""

    def __init__(self) -> None:
        self.keys: list[tuple[Tensor, Tensor]] = []
        """Per block ``k_BHSd`` and ``v_BHSd``."""

    def grow(self, parent_BM: Tensor) -> None:
        """Add one token per beam: beam m continues the earlier beam ``parent_BM[b, m]`` (ignored at the first
        token)."""
        newest_BM1 = torch.arange(parent_BM.shape[1], device=parent_BM.device).expand_as(parent_BM)[..., None]
        if not self.keys:
            self.ancestor_BMl = newest_BM1
            return
        parents_BMl = parent_BM[..., None].expand(-1, -1, self.ancestor_BMl.shape[2])
        older_BMl = self.ancestor_BMl.gather(1, parents_BMl)
        self.ancestor_BMl = torch.cat([older_BMl, newest_BM1 + self.keys[0][0].shape[2]], dim=2)

    def bias(self, bias_H1l: Tensor) -> Tensor:
        """``bias_BHMS``: the relative-position bias at a beam's tokens, -inf at the tokens of other beams."""
        beams, places = self.ancestor_BMl.shape[1:]
        tokens = beams + (self.keys[0][0].shape[2] if self.keys else 0)
        at_BHMl = self.ancestor_BMl[:, None].expand(-1, len(bias_H1l), -1, -1)
        invisible_BHMS = bias_H1l.new_full((*at_BHMl.shape[:3], tokens), -torch.inf)
        return invisible_BHMS.scatter(3, at_BHMl, bias_H1l.expand(len(at_BHMl), -1, beams, places))

    def append(self, block: int, k_BHMd: Tensor, v_BHMd: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest token of each beam; ``k_BHSd`` and ``v_BHSd`` of all tokens of a block."""
        if block == len(self.keys):
            self.keys.append((k_BHMd, v_BHMd))
        else:
            k_BHSd, v_BHSd = self.keys[block]
            self.keys[block] = torch.cat([k_BHSd, k_BHMd], dim=2), torch.cat([v_BHSd, v_BHMd], dim=2)
        return self.keys[block]
