"""The user's vectors, read from a file (``item_rows.py``); the column of a Parquet file is ``vector``."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.config import Section
from genrec_cli.encoders.item_rows import SUFFIXES, ItemRows, user_path
from genrec_cli.errors import UsageError
from genrec_cli.files import sha256_file


class VectorsConfig(Section):
    """``[encoder]`` of vectors."""

    name: Literal["vectors"] = "vectors"
    path: str = Field("", exclude=True)
    """The .npy or .parquet file. Its hash, not its path, is part of the key."""
    ids: str | None = Field(None, exclude=True)
    """Raw ids of the rows of a .npy file, one per line. Its hash, not its path, is part of the key."""


class VectorsEncoder:
    """Reads vectors in place of computing them."""

    Config = VectorsConfig
    frozen: ClassVar[bool] = True
    label = "vectors"

    def __init__(self, config: VectorsConfig) -> None:
        self.config = config
        self.facts: dict[str, object] = {}
        path = user_path(config.path)
        if path.suffix not in SUFFIXES:
            what = f"The encoder 'vectors' needs a .npy or .parquet file, not '{config.path}'."
            raise UsageError(what, hint="genrec tokenize --encoder FILE.parquet")
        self.rows = ItemRows(path, "vector", ids=user_path(config.ids) if config.ids else None)

    def external(self) -> Mapping[str, str]:
        """Hashes of the files."""
        ids = {"encoder/ids": sha256_file(self.rows.ids)} if self.rows.ids else {}
        return {"encoder/vectors": sha256_file(self.rows.path), **ids}

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str]) -> np.ndarray:
        """``vec_ID`` in the order of ``raw_ids``; raises DataError as :meth:`ItemRows.read` does."""
        return np.ascontiguousarray(self.rows.read(raw_ids), dtype=np.float32)
