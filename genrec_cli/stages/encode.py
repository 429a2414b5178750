"""Encode item texts: in one call, or in batches that processes share and that can be resumed.

The longest texts come first, so that batches have little padding. :data:`BATCHES` batches are a *part*, which is
written to the unfinished artifact when it is encoded. The batches depend only on the texts, so the vectors are the same
after a kill and for any number of processes.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrec_cli import console
from genrec_cli.artifacts import Plan
from genrec_cli.config import canonical_json
from genrec_cli.encoders.base import Batched, Encoder
from genrec_cli.errors import DataError
from genrec_cli.files import sha256_text, write_atomically
from genrec_cli.process_group import current_group

BATCHES = 32
"""Batches per part. With 64 texts per batch a part takes seconds to minutes on a CPU and has some megabytes."""


def encode(
    encoder: Encoder, texts: Sequence[str], raw_ids: Sequence[str], plan: Plan, folder: Path, **needed: Any
) -> np.ndarray:
    """``vec_ID`` (float32). Only the result of the main process is complete.

    Args:
        folder: where unfinished parts are stored.
        needed: inputs of the encoder beside texts and raw ids.

    Raises:
        DataError: a vector is not finite.
    """
    if isinstance(encoder, Batched):
        return _in_parts(encoder, texts, raw_ids, plan, folder)
    if not current_group().main:
        return np.empty((0, 0), np.float32)
    vec_ID = encoder.encode(texts, raw_ids, **needed)
    _check_finite(vec_ID, raw_ids)
    return vec_ID


def longest_first(texts: Sequence[str]) -> np.ndarray:
    """Rows of the non-blank texts in descending order of length."""
    length_I = np.array([len(text.strip()) for text in texts], dtype=np.int64)
    return np.argsort(-length_I, kind="stable")[: np.count_nonzero(length_I)]


@dataclass(frozen=True)
class Part:
    """Some batches of texts and the file of their vectors."""

    path: Path
    row_S: np.ndarray
    digest: str
    """Hash of the texts and of everything else that the vectors depend on."""

    def write(self, vec_SD: np.ndarray) -> None:
        """Write the file atomically."""
        from safetensors.numpy import save

        self.path.parent.mkdir(exist_ok=True)
        write_atomically(self.path, save({"vectors": vec_SD}, metadata={"digest": self.digest}))

    def read(self, width: int) -> np.ndarray | None:
        """``vec_SD``, or None if the file is damaged or has another digest."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                same = (file.metadata() or {}).get("digest") == self.digest
                vec_SD = file.get_tensor("vectors") if same else np.empty(0)
        except (SafetensorError, OSError):
            return None
        valid = vec_SD.shape == (len(self.row_S), width) and vec_SD.dtype == np.float32 and np.isfinite(vec_SD).all()
        return vec_SD if valid else None


def _in_parts(encoder: Batched, texts: Sequence[str], raw_ids: Sequence[str], plan: Plan, folder: Path) -> np.ndarray:
    """``vec_ID``. Processes take the batches of a part in turn; the main process gathers and stores the part."""
    group, size = current_group(), encoder.batch_size
    encode_batch, width = encoder.open()
    order, made_by = longest_first(texts), canonical_json([plan.key, size, dict(encoder.facts)])
    parts: list[Part] = []
    for row_S in (order[start : start + BATCHES * size] for start in range(0, len(order), BATCHES * size)):
        digest = sha256_text(canonical_json([made_by, [texts[row] for row in row_S]]))
        parts.append(Part(folder / f"{len(parts):06}.safetensors", row_S, digest))
    vec_ID = np.zeros((len(texts), width), dtype=np.float32)
    done = int(group.all_reduce_max(_restore(vec_ID, parts, folder) if group.main else 0)[0])
    started = sum(len(part.row_S) for part in parts[:done])
    if started:
        console.say(f"resuming: {started:,} of {len(order):,} texts are encoded")
    with console.progress(total=len(order), initial=started, desc=f"encode with {encoder.label}", unit="item") as bar:
        for part in parts[done:]:
            rank_S = part.row_S[np.arange(len(part.row_S)) // size % group.world == group.rank]
            rank_SD = np.empty((len(rank_S), width), dtype=np.float32)
            for start in range(0, len(rank_S), size):
                batch = [texts[row] for row in rank_S[start : start + size]]
                rank_SD[start : start + size] = encode_batch(batch)
                bar.update(len(batch))
            for row_S, vec_SD in zip(group.gather(rank_S), group.gather(rank_SD), strict=True):
                vec_ID[row_S] = vec_SD
            if group.main:
                _check_finite(vec_ID[part.row_S], [raw_ids[row] for row in part.row_S])
                part.write(vec_ID[part.row_S])
                bar.update(len(part.row_S) - len(rank_S))
    return vec_ID


def _restore(vec_ID: np.ndarray, parts: Sequence[Part], folder: Path) -> int:
    """Read the stored parts; returns their number, which is 0 if one is not valid: all are deleted then."""
    stored = parts[: len(list(folder.glob("*.safetensors")))]
    for part in stored:
        vec_SD = part.read(vec_ID.shape[1])
        if vec_SD is None:
            console.warn(f"{part.path} is damaged or has other texts or settings; encoding starts again.")
            shutil.rmtree(folder)
            vec_ID[:] = 0
            return 0
        vec_ID[part.row_S] = vec_SD
    return len(stored)


def _check_finite(vec_ND: np.ndarray, raw_ids: Sequence[str]) -> None:
    rows = np.flatnonzero(~np.isfinite(vec_ND).all(axis=1))
    if len(rows):
        names = ", ".join(raw_ids[row] for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise DataError(f"{len(rows)} of {len(vec_ND)} items have a vector that is not finite: {names}.")
