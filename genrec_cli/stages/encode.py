"""Item texts to vectors: batch by batch where an encoder can, shared by processes, resumable midway.

The longest texts go first, so that a batch wastes little padding. :data:`BATCHES` batches are a *part*, which is
written to the unfinished artifact as soon as it is encoded. A vector depends on its batch alone, and the batches depend
on the texts alone. So the vectors are the same after a kill and for any number of processes.
"""

import shutil
from collections.abc import Sequence
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
"""Batches per part. With 64 texts per batch, a kill costs a CPU seconds to minutes, and a part has some megabytes."""


def encode(
    encoder: Encoder, texts: Sequence[str], raw_ids: Sequence[str], plan: Plan, folder: Path, **needed: Any
) -> np.ndarray:
    """``vec_ID`` (float32) in the main process; the others encode some batches, and their result is not complete.

    Args:
        folder: where parts are kept while not all are done.
        needed: what the encoder reads beside texts and raw ids.

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
    """Rows of the texts that are not blank, in the order in which they are encoded."""
    length_I = np.array([len(text.strip()) for text in texts], dtype=np.int64)
    return np.argsort(-length_I, kind="stable")[: np.count_nonzero(length_I)]


def _in_parts(encoder: Batched, texts: Sequence[str], raw_ids: Sequence[str], plan: Plan, folder: Path) -> np.ndarray:
    """``vec_ID``. Processes take the batches of a part in turn; the main one gathers the part and keeps it."""
    group, size = current_group(), encoder.batch_size
    encode_batch, width = encoder.open()
    order = longest_first(texts)
    parts = [order[start : start + BATCHES * size] for start in range(0, len(order), BATCHES * size)]
    kept = Kept(folder, width, canonical_json([plan.key, size, dict(encoder.facts)]))
    vec_ID = np.zeros((len(texts), width), dtype=np.float32)
    done = kept.restore(vec_ID, texts, parts) if group.main else 0
    done = int(group.all_reduce_max(done)[0])  # the others go by what the main one found
    started = sum(map(len, parts[:done]))
    if started:
        console.say(f"{started:,} of {len(order):,} texts were encoded before; going on")
    doing = f"encode with {encoder.label}"
    with console.progress(total=len(order), initial=started, desc=doing, unit="item") as bar:
        for number, row_S in enumerate(parts[done:], done):
            own_S = row_S[np.arange(len(row_S)) // size % group.world == group.rank]
            own_SD = np.empty((len(own_S), width), dtype=np.float32)
            for start in range(0, len(own_S), size):
                batch = [texts[row] for row in own_S[start : start + size]]
                own_SD[start : start + size] = encode_batch(batch)
                bar.update(len(batch))
            for found_S, found_SD in zip(group.gather(own_S), group.gather(own_SD), strict=True):
                vec_ID[found_S] = found_SD
            if group.main:
                _check_finite(vec_ID[row_S], [raw_ids[row] for row in row_S])
                kept.write(number, vec_ID[row_S], [texts[row] for row in row_S])
                bar.update(len(row_S) - len(own_S))
    return vec_ID


class Kept:
    """Parts on disk, each with a digest of its texts and of all else that decides its vectors.

    Args:
        made_by: what decides the vectors of a text, beside the texts of its batch.
    """

    def __init__(self, folder: Path, width: int, made_by: str) -> None:
        self.folder, self.width, self.made_by = folder, width, made_by

    def write(self, number: int, vec_SD: np.ndarray, texts: list[str]) -> None:
        """Keep a part; a kill leaves all of it or nothing."""
        from safetensors.numpy import save

        self.folder.mkdir(exist_ok=True)
        write_atomically(self._path(number), save({"vectors": vec_SD}, metadata={"digest": self._digest(texts)}))

    def restore(self, vec_ID: np.ndarray, texts: Sequence[str], parts: list[np.ndarray]) -> int:
        """Fill in the vectors of the parts that are there; returns how many. If one does not fit, all are dropped."""
        done = len(list(self.folder.glob("*.safetensors")))
        for number, row_S in enumerate(parts[:done]):
            vec_SD = self._read(number, [texts[row] for row in row_S])
            if vec_SD is None:
                console.warn(f"{self._path(number)} is damaged or of other texts or settings; encoding starts anew.")
                shutil.rmtree(self.folder)
                vec_ID[:] = 0
                return 0
            vec_ID[row_S] = vec_SD
        return min(done, len(parts))

    def _read(self, number: int, texts: list[str]) -> np.ndarray | None:
        """``vec_SD`` of a part, or None if it is not what :meth:`write` would keep of these texts."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(number), framework="numpy") as file:
                same = (file.metadata() or {}).get("digest") == self._digest(texts)
                vec_SD = file.get_tensor("vectors") if same else np.empty(0)
        except (SafetensorError, OSError):
            return None
        fits = vec_SD.shape == (len(texts), self.width) and vec_SD.dtype == np.float32 and np.isfinite(vec_SD).all()
        return vec_SD if fits else None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.safetensors"

    def _digest(self, texts: list[str]) -> str:
        return sha256_text(canonical_json([self.made_by, texts]))


def _check_finite(vec_ND: np.ndarray, raw_ids: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(vec_ND).all(axis=1))
    if len(bad):
        some = ", ".join(raw_ids[row] for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise DataError(f"{len(bad)} of {len(vec_ND)} items have a vector that is not finite: {some}.")
