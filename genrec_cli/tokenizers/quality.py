"""The quality of codes: collisions, codewords in use, reconstruction error, and text neighbours kept."""

from typing import Any

import numpy as np

from genrec_cli.tokenizers.information import entropy, mutual_information

NEIGHBOURS = 10
SAMPLE = 2000
"""Largest number of items whose neighbours are compared."""
PAIRS = 40_000_000
"""Largest number of pairs compared: a large catalogue has a smaller sample."""
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
    """The entries of ``quality.json`` for codes from 0; negative codes are padding.

    Neighbours need ``vec_ID``, the encoder's vectors. The reconstruction error needs ``reduced_IP``, the vectors after
    PCA, and ``decoded_IP``, the reconstructed vectors. The seed is that of the sample of items and of shuffled digits.
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
    text_NM = nearest(rows, unit(vec_ID))
    error = decoded_kept = None
    if reduced_IP is not None and decoded_IP is not None:
        error = relative_error(reduced_IP, decoded_IP)
        decoded_kept = kept(text_NM, nearest(rows, unit(decoded_IP)))
    return quality | {
        "reconstruction_error": error,
        "neighbour_sample": len(rows),
        "neighbours_kept_by_decoded": decoded_kept,
        "neighbours_kept_by_digits": kept(text_NM, nearest(rows, codes_IK)),
    }


def collisions(codes_IK: np.ndarray) -> dict[str, Any]:
    """Distinct codes, items that have the codes of another item (count and fraction), and the largest group."""
    sizes = np.bincount(groups(codes_IK))
    colliding = int(sizes[sizes > 1].sum())
    return {
        "distinct_codes": len(sizes),
        "colliding_items": colliding,
        "colliding_fraction": colliding / len(codes_IK),
        "largest_group": int(sizes.max()),
    }


def groups(row_IC: np.ndarray) -> np.ndarray:
    """``group_I``: the group id of each row, from 0; equal rows have equal ids."""
    rows = np.ascontiguousarray(row_IC)
    void_I = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.unique(void_I, return_inverse=True)[1]


def digit_usage(codes_IK: np.ndarray, codewords: int) -> list[dict[str, Any]]:
    """For each digit the number of codewords in use and the entropy of their distribution in bits."""
    return [
        {"used": len(np.unique(code_I)), "entropy": entropy(code_I, codewords) if len(code_I) else 0.0}
        for code_I in (code_I[code_I >= 0].astype(np.int64) for code_I in codes_IK.T)
    ]


def relative_error(reduced_IP: np.ndarray, decoded_IP: np.ndarray) -> float:
    """Squared reconstruction error over squared length, summed over items."""
    total = np.square(reduced_IP, dtype=np.float64).sum()
    return float(np.square(reduced_IP - decoded_IP, dtype=np.float64).sum() / total) if total else 0.0


def neighbour_sample(items: int, seed: int) -> np.ndarray:
    """Rows to compare: at most :data:`SAMPLE`, and so few that there are at most :data:`PAIRS` pairs."""
    size = min(items, SAMPLE, max(100, PAIRS // items))
    return np.sort(np.random.default_rng(seed).choice(items, size, replace=False))


def nearest(rows: np.ndarray, all_IP: np.ndarray) -> np.ndarray:
    """``near_NM``: the nearest other items of some rows, by dot product, or for codes (uint16) by equal digits."""
    many, step = min(NEIGHBOURS, len(all_IP) - 1), max(1, CHUNK_PAIRS // len(all_IP))
    near_NM = np.empty((len(rows), many), dtype=np.int64)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        if all_IP.dtype == np.uint16:
            score_NI = np.zeros((len(some), len(all_IP)), dtype=np.float32)
            for code_I in all_IP.T:
                score_NI += code_I[some, None] == code_I
        else:
            score_NI = all_IP[some] @ all_IP.T
        score_NI[np.arange(len(some)), some] = -np.inf
        near_NM[start : start + step] = np.argpartition(-score_NI, max(0, many - 1), axis=1)[:, :many]
    return near_NM


def kept(text_NM: np.ndarray, other_NM: np.ndarray) -> float | None:
    """Mean fraction of ``text_NM`` that is in ``other_NM``; None for a catalogue of one item."""
    return float((text_NM[:, :, None] == other_NM[:, None, :]).any(axis=2).mean()) if text_NM.size else None


def unit(vec_ID: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zero rows stay zero."""
    length_I = np.linalg.norm(vec_ID, axis=1, keepdims=True)
    return np.divide(vec_ID, length_I, out=np.zeros_like(vec_ID), where=length_I > 0)
