"""How good codes are: collisions, use of the codebooks, error, and text neighbours that survive."""

from typing import Any

import numpy as np

from genrec_cli.tokenizers.information import mutual_information

NEIGHBOURS = 10
SAMPLE = 2000
"""Items whose neighbours are compared, at most."""
PAIRS = 40_000_000
"""Pairs of items compared at most, so that a large catalogue takes a smaller sample."""
CHUNK_PAIRS = 4_000_000
"""Similarities held in memory at a time."""


def measure(
    vec_ID: np.ndarray,
    codes_IK: np.ndarray,
    codewords: int,
    reduced_IP: np.ndarray,
    decoded_IP: np.ndarray | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Everything that ``quality.json`` holds.

    Args:
        vec_ID: the encoder's vectors.
        codes_IK: 0-based codes.
        codewords: V.
        reduced_IP: the vectors as they were quantised.
        decoded_IP: the vectors that the codes stand for; None where they stand for none.
        seed: of the sample of items whose neighbours are compared.
    """
    rows = neighbour_sample(len(vec_ID), seed)
    text_N = nearest(rows, unit(vec_ID))
    quality: dict[str, Any] = {
        **of_codes(codes_IK, codewords),
        **mutual_information(codes_IK, codewords, seed=seed),
        "reconstruction_error": None,
        "neighbour_sample": len(rows),
        "neighbours_kept_by_decoded": None,
        "neighbours_kept_by_digits": kept(text_N, nearest(rows, codes_IK)),
    }
    if decoded_IP is not None:
        quality["reconstruction_error"] = relative_error(reduced_IP, decoded_IP)
        quality["neighbours_kept_by_decoded"] = kept(text_N, nearest(rows, unit(decoded_IP)))
    return quality


def of_codes(codes_IK: np.ndarray, codewords: int) -> dict[str, Any]:
    """What the codes tell by themselves. -1 pads an item of fewer than K."""
    digits = digit_usage(codes_IK, codewords)
    return {
        "items": len(codes_IK),
        "codebooks": codes_IK.shape[1],
        "codewords": codewords,
        **collisions(codes_IK),
        "least_used_share": min(digit["used"] for digit in digits) / codewords,
        "mean_entropy": float(np.mean([digit["entropy"] for digit in digits])),
        "digits": digits,
    }


def collisions(codes_IK: np.ndarray) -> dict[str, Any]:
    """Items that share all K codes with another, as a count and a share; tuples; the largest group."""
    sizes = np.bincount(groups(codes_IK))
    colliding = int(sizes[sizes > 1].sum())
    return {
        "distinct_codes": len(sizes),
        "colliding_items": colliding,
        "colliding_share": colliding / len(codes_IK),
        "largest_group": int(sizes.max()),
    }


def groups(row_IC: np.ndarray) -> np.ndarray:
    """``group_I``: equal rows have equal numbers, from 0."""
    rows = np.ascontiguousarray(row_IC)
    one_a_row = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.unique(one_a_row, return_inverse=True)[1]


def digit_usage(codes_IK: np.ndarray, codewords: int) -> list[dict[str, Any]]:
    """For each digit the codewords in use and the entropy of their distribution in bits."""
    digits, real_IK = codes_IK.shape[1], codes_IK >= 0
    joint = codes_IK + np.arange(digits, dtype=np.int64) * codewords
    number_KV = np.bincount(joint[real_IK], minlength=digits * codewords).reshape(digits, codewords)
    share_KV = number_KV / real_IK.sum(axis=0).clip(min=1)[:, None]
    bits_KV = -share_KV * np.log2(share_KV, out=np.zeros_like(share_KV), where=share_KV > 0)
    used_K, bits_K = np.count_nonzero(share_KV, axis=1), bits_KV.sum(axis=1)
    return [{"used": int(used), "entropy": float(bits)} for used, bits in zip(used_K, bits_K, strict=True)]


def relative_error(reduced_IP: np.ndarray, decoded_IP: np.ndarray) -> float:
    """Squared reconstruction error over squared length, summed over items."""
    total = np.square(reduced_IP, dtype=np.float64).sum()
    return float(np.square(reduced_IP - decoded_IP, dtype=np.float64).sum() / total) if total else 0.0


def neighbour_sample(items: int, seed: int) -> np.ndarray:
    """Rows to compare: at most :data:`SAMPLE`, fewer where the catalogue makes that too many pairs."""
    size = min(items, SAMPLE, max(100, PAIRS // items))
    return np.sort(np.random.default_rng(seed).choice(items, size, replace=False))


def nearest(rows: np.ndarray, all_IP: np.ndarray) -> np.ndarray:
    """The nearest other items of some rows, ``near_NM``: by dot product, or by equal digits of codes.

    Works through the rows in chunks, so that never more than :data:`CHUNK_PAIRS` similarities exist.
    """
    many = min(NEIGHBOURS, len(all_IP) - 1)
    step = max(1, CHUNK_PAIRS // len(all_IP))
    near_NM = np.empty((len(rows), many), dtype=np.int64)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        are_codes = all_IP.dtype == np.uint16
        score_NI = _equal_digits(all_IP[some], all_IP) if are_codes else all_IP[some] @ all_IP.T
        score_NI[np.arange(len(some)), some] = -np.inf
        near_NM[start : start + step] = np.argpartition(-score_NI, max(0, many - 1), axis=1)[:, :many]
    return near_NM


def kept(text_NM: np.ndarray, other_NM: np.ndarray) -> float | None:
    """Mean share of the first neighbours that are among the others; None for a catalogue of one item."""
    return float((text_NM[:, :, None] == other_NM[:, None, :]).any(axis=2).mean()) if text_NM.size else None


def unit(vec_ID: np.ndarray) -> np.ndarray:
    """Rows at length 1; a zero row stays zero."""
    length_I = np.linalg.norm(vec_ID, axis=1, keepdims=True)
    return np.divide(vec_ID, length_I, out=np.zeros_like(vec_ID), where=length_I > 0)


def _equal_digits(some_NK: np.ndarray, codes_IK: np.ndarray) -> np.ndarray:
    score_NI = np.zeros((len(some_NK), len(codes_IK)), dtype=np.float32)
    for digit in range(codes_IK.shape[1]):
        score_NI += some_NK[:, digit, None] == codes_IK[:, digit]
    return score_NI
