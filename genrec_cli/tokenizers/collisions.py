"""Collision policies: what happens to items with equal codes.

* ``none``: nothing. Metrics correct for it exactly (docs/evaluate.md).
* ``digit``: one more digit numbers the items with equal codes in the order of the catalogue (TIGER, Rajput et al.,
  NeurIPS 2023, section 3.1). V is the same for all digits, so V must be at least the size of the largest group.
* ``reassign``: the item with the smallest reconstruction error keeps the code; each other item of the group moves to
  the nearest free code, by distance in the quantised space. No two items have equal codes.

``reassign`` is an auction: in each round every item bids for its nearest free code, and the closest bidder wins the
code. Items with equal vectors are one bidder for several codes, so 1,000 items without text do not need 1,000 rounds.
In the end no free code is nearer to an item than its new code.
"""

from typing import Any, Literal

import numpy as np

from genrec_cli.errors import UsageError
from genrec_cli.tokenizers.base import Movable
from genrec_cli.tokenizers.quality import collisions, groups

Policy = Literal["none", "digit", "reassign"]

FIRST = 8
"""Nearest codes in the first search. Items for which none is free search four times as many next."""
CELLS = 2_000_000
"""Candidate codes times codewords held in memory at a time."""


def resolve(
    policy: Policy, tokenizer: Movable, vec_ID: np.ndarray, codes_IK: np.ndarray, codewords: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """The codes under a policy, and its entries of ``quality.json``.

    Raises:
        UsageError: a group is larger than V, or there are more items than codes.
    """
    facts: dict[str, Any] = {"collision_policy": policy}
    if policy == "none":
        return codes_IK, facts
    facts["colliding_share_before"] = collisions(codes_IK)["colliding_fraction"]
    if policy == "digit":
        return with_digit(codes_IK, codewords), facts
    moved_IK = reassign(tokenizer, vec_ID, codes_IK, codewords)
    return moved_IK, facts | {"moved_fraction": float((moved_IK != codes_IK).any(axis=1).mean())}


def with_digit(codes_IK: np.ndarray, codewords: int) -> np.ndarray:
    """One more digit: in the order of rows 0 for the first item of a code, 1 for the second, and so on."""
    group_I = groups(codes_IK)
    order_I = np.argsort(group_I, kind="stable")
    size_G = np.bincount(group_I)
    if size_G.max() > codewords:
        what = (
            f"{size_G.max()} items share the same codes, and a digit counts to {codewords}, which is V of all digits."
        )
        hint = f"--codewords {size_G.max()}    or --collisions reassign, or more --codebooks"
        raise UsageError(what, hint=hint)
    digit_I = np.empty(len(codes_IK), dtype=np.uint16)
    digit_I[order_I] = np.arange(len(codes_IK)) - np.repeat(np.cumsum(size_G) - size_G, size_G)
    return np.column_stack([codes_IK, digit_I])


def reassign(tokenizer: Movable, vec_ID: np.ndarray, codes_IK: np.ndarray, codewords: int) -> np.ndarray:
    """Codes of which no two are equal. Items with a unique code keep it."""
    items, digits = codes_IK.shape
    if codewords**digits < items:
        what = f"{items:,} items do not fit into {codewords}^{digits} = {codewords**digits:,} codes."
        raise UsageError(what, hint="More --codebooks or --codewords, or another --collisions")
    moving = _surplus(tokenizer, vec_ID, codes_IK)
    if not len(moving):
        return codes_IK
    moved_IK = codes_IK.copy()
    taken = np.unique(numbers(np.delete(codes_IK, moving, axis=0), codewords))
    # Items with equal vectors and codes are one bidder B.
    bidder_N = groups(np.concatenate([_bytes(vec_ID[moving]), _bytes(codes_IK[moving])], axis=1))
    first_B = moving[np.unique(bidder_N, return_index=True)[1]]
    wants_B = np.bincount(bidder_N)
    won: list[tuple[np.ndarray, np.ndarray]] = []
    many = FIRST
    while wants_B.any():
        many = min(many, codewords**digits)
        waiting = np.flatnonzero(wants_B)
        step = max(1, CELLS // (many * codewords))
        for some in (waiting[start : start + step] for start in range(0, len(waiting), step)):
            rows = first_B[some]
            near_NMK, cost_NM = tokenizer.nearest(vec_ID[rows], codes_IK[rows], many)
            key_NM = numbers(near_NMK.reshape(-1, digits), codewords).reshape(cost_NM.shape)
            taken, winner, place = _auction(key_NM, cost_NM, wants_B[some], taken)
            won.append((some[winner], near_NMK[winner, place]))
            wants_B[some] -= np.bincount(winner, minlength=len(some))
        many *= 4
    bidder, code = (np.concatenate(part) for part in zip(*won, strict=True))
    moved_IK[moving[np.argsort(bidder_N, kind="stable")]] = code[np.argsort(bidder, kind="stable")]
    return moved_IK


def numbers(codes_NK: np.ndarray, codewords: int) -> np.ndarray:
    """A uint64 key per row: unique per code if V^K <= 2^64, else a hash (equal with probability 2^-64)."""
    digits = codes_NK.shape[1]
    if codewords**digits <= 2**64:
        weight_K = np.array([codewords**k for k in range(digits)], dtype=np.uint64)
    else:
        weight_K = np.random.default_rng(0).integers(2**63, size=(digits,), dtype=np.uint64) * 2 + 1
    return (codes_NK.astype(np.uint64) * weight_K).sum(axis=1, dtype=np.uint64)


def cheapest(cost_NC: np.ndarray, many: int) -> np.ndarray:
    """``column_NM`` of up to ``many`` smallest costs of each row, in ascending order; ties in the order of columns."""
    if many >= cost_NC.shape[1]:
        return np.argsort(cost_NC, axis=1, kind="stable")
    some_NM = np.sort(np.argpartition(cost_NC, many - 1, axis=1)[:, :many], axis=1)
    order_NM = np.argsort(np.take_along_axis(cost_NC, some_NM, 1), axis=1, kind="stable")
    return np.take_along_axis(some_NM, order_NM, 1)


def beam_step(
    codes_NMK: np.ndarray, cost_NMC: np.ndarray, many: int, code_NC: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of a beam search: ``codes_NMK`` with one more digit, ``cost_NM``, and the places of their prefixes.

    ``cost_NMC`` is the cost of every prefix with every candidate digit, ``code_NC`` the candidates (by default 0..C-1).
    """
    cost_NB = cost_NMC.reshape(len(cost_NMC), -1)
    best_NM = cheapest(cost_NB, many)
    prefix_NM, last_NM = np.divmod(best_NM, cost_NMC.shape[2])
    if code_NC is not None:
        last_NM = np.take_along_axis(code_NC, last_NM, 1)
    prefixes_NMK = np.take_along_axis(codes_NMK, prefix_NM[:, :, None], 1)
    codes_NMK = np.concatenate([prefixes_NMK, last_NM[:, :, None].astype(np.uint16)], axis=2)
    return codes_NMK, np.take_along_axis(cost_NB, best_NM, 1), prefix_NM


def _surplus(tokenizer: Movable, vec_ID: np.ndarray, codes_IK: np.ndarray) -> np.ndarray:
    """Rows that must move: of each group all but the first item with the smallest reconstruction error."""
    group_I = groups(codes_IK)
    shared = np.flatnonzero(np.bincount(group_I)[group_I] > 1)
    if not len(shared):
        return shared
    decoded_NP = tokenizer.decode(codes_IK[shared])
    error_N = np.zeros(len(shared))
    if decoded_NP is not None:
        error_N = np.square(tokenizer.reduced(vec_ID[shared]) - decoded_NP, dtype=np.float64).sum(1)
    order_N = np.lexsort((error_N, group_I[shared]))
    stays_N = np.diff(group_I[shared][order_N], prepend=-1) != 0
    return np.sort(shared[order_N[~stays_N]])


def _auction(
    key_NM: np.ndarray, cost_NM: np.ndarray, wants_N: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounds of bids until no bidder has a free code on its list or wants one.

    Returns: the codes now taken (sorted), and for every code won the bidder and its place on the bidder's list.
    """
    wants_N = wants_N.copy()
    free_NM = ~_contains(taken, key_NM)
    winners, places = [np.empty(0, dtype=np.intp)], [np.empty(0, dtype=np.intp)]
    while (bids_NM := free_NM & (np.cumsum(free_NM, axis=1) <= wants_N[:, None])).any():
        bidder, place = np.nonzero(bids_NM)
        key = key_NM[bidder, place]
        order = np.lexsort((bidder, cost_NM[bidder, place], key))
        best = order[np.concatenate([[True], key[order][1:] != key[order][:-1]])]
        winners.append(bidder[best])
        places.append(place[best])
        wants_N -= np.bincount(bidder[best], minlength=len(wants_N))
        free_NM &= ~_contains(key[best], key_NM)
        taken = np.insert(taken, np.searchsorted(taken, key[best]), key[best])
    return taken, np.concatenate(winners), np.concatenate(places)


def _contains(sorted_N: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which of ``values`` are in ``sorted_N``, as booleans."""
    if not len(sorted_N):
        return np.zeros(values.shape, dtype=bool)
    return sorted_N[np.searchsorted(sorted_N, values).clip(max=len(sorted_N) - 1)] == values


def _bytes(row_NC: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(row_NC).view(np.uint8).reshape(len(row_NC), -1)
