"""The quality of codes: collisions, use of the codebooks, error, and the fraction of text neighbours kept."""

from typing import Any

import numpy as np

from genrec_cli.tokenizers.information import entropy, mutual_information

NEIGHBOURS = 10
SAMPLE = 2000
"""Items whose neighbours are compared, at most."""
PAIRS = 40_000_000
"""Pairs of items compared at most, so that a large catalogue takes a smaller sample."""
CHUNK_PAIRS = 4_000_000
"""Similarities held in memory at a time."""


def measure(
    codes_IK: np.ndarray,
    codewords: int,
    *,
    seed: int,
    vec_ID: np.ndarray | None = None,
    reduced_IP: np.ndarray | None = None,
    decoded_IP: np.ndarray | None = None,
) -> dict[str, Any]:
    """The entries of ``quality.json``.

    Args:
        codes_IK: codes from 0; a negative one pads an item of fewer than K.
        codewords: V.
        seed: seed of the sample of items whose neighbours are compared, and of shuffled digits.
        vec_ID: the vectors of an encoder; without them no neighbours are compared.
        reduced_IP: the vectors as they were quantised.
        decoded_IP: the vectors that the codes stand for; None if there are none.
    """
    digits = digit_usage(codes_IK, codewords)
    quality: dict[str, Any] = {
        "items": len(codes_IK),
        "codebooks": codes_IK.shape[1],
        "codewords": codewords,
        **collisions(codes_IK),
        "least_used_fraction": min(digit["used"] for digit in digits) / codewords,
        "mean_entropy": float(np.mean([digit["entropy"] for digit in digits])),
        "digits": digits,
    }
    if codes_IK.min() >= 0:
        quality |= mutual_information(codes_IK, codewords, seed=seed)
    if vec_ID is None:
        return quality
    rows = neighbour_sample(len(vec_ID), seed)
    text_N = nearest(rows, unit(vec_ID))
    decoded = reduced_IP is not None and decoded_IP is not None
    return quality | {
        "reconstruction_error": relative_error(reduced_IP, decoded_IP) if decoded else None,
        "neighbour_sample": len(rows),
        "neighbours_kept_by_decoded": kept(text_N, nearest(rows, unit(decoded_IP))) if decoded else None,
        "neighbours_kept_by_digits": kept(text_N, nearest(rows, codes_IK)),
    }


def collisions(codes_IK: np.ndarray) -> dict[str, Any]:
    """Number of different codes, items that share all K codes with another (count and fraction), the largest group."""
    sizes = np.bincount(groups(codes_IK))
    colliding = int(sizes[sizes > 1].sum())
    return {
        "distinct_codes": len(sizes),
        "colliding_items": colliding,
        "colliding_fraction": colliding / len(codes_IK),
        "largest_group": int(sizes.max()),
    }


def groups(row_IC: np.ndarray) -> np.ndarray:
    """``group_I``: equal rows have equal numbers, from 0."""
    rows = np.ascontiguousarray(row_IC)
    one_a_row = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.unique(one_a_row, return_inverse=True)[1]


def digit_usage(codes_IK: np.ndarray, codewords: int) -> list[dict[str, Any]]:
    """For each digit the number of codewords in use and the entropy of their distribution in bits."""
    real_KI = [code_I[code_I >= 0].astype(np.int64) for code_I in codes_IK.T]
    return [
        {"used": len(np.unique(code_I)), "entropy": entropy(code_I, codewords) if len(code_I) else 0.0}
        for code_I in real_KI
    ]


def relative_error(reduced_IP: np.ndarray, decoded_IP: np.ndarray) -> float:
    """Squared reconstruction error over squared length, summed over items."""
    total = np.square(reduced_IP, dtype=np.float64).sum()
    return float(np.square(reduced_IP - decoded_IP, dtype=np.float64).sum() / total) if total else 0.0


def neighbour_sample(items: int, seed: int) -> np.ndarray:
    """Rows to compare: at most :data:`SAMPLE`, and fewer for a catalogue so large that they would be too many pairs."""
    size = min(items, SAMPLE, max(100, PAIRS // items))
    return np.sort(np.random.default_rng(seed).choice(items, size, replace=False))


def nearest(rows: np.ndarray, all_IP: np.ndarray) -> np.ndarray:
    """``near_NM``: the nearest other items of some rows, by dot product, or for codes (uint16) by equal digits.

    Works in chunks of rows, so that at most :data:`CHUNK_PAIRS` similarities exist at a time.
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
    """Mean fraction of the first neighbours that are among the others; None for a catalogue of one item."""
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
