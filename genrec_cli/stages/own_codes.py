"""Semantic IDs from a file in place of a tokenizer (``tokenize --codes FILE``).

* ``FILE.parquet``: a column of raw item ids (``raw_id``, ``item`` or ``item_id``) and a column ``codes`` of lists.
* ``FILE.npy``: integers, items x K, in the order of ``items.parquet``.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from genrec_cli.artifacts import Artifact
from genrec_cli.config import Section, Seed, validate
from genrec_cli.data.codes_table import MAX_CODEWORDS
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.encoders.item_rows import ItemRows, user_path
from genrec_cli.errors import DataError
from genrec_cli.files import sha256_file
from genrec_cli.tokenizers.bare import BareCodes
from genrec_cli.tokenizers.base import MAX_DIGITS
from genrec_cli.tokenizers.collisions import Policy

ID_COLUMNS = ("raw_id", "item", "item_id")


class OwnCodesConfig(Section):
    """``[tokenizer]`` with ``--codes``."""

    name: Literal["file"] = "file"
    codebooks: int | None = Field(None, ge=1, le=MAX_DIGITS)
    """K; if given, the file must have K codes per item."""
    codewords: int | None = Field(None, ge=2, le=MAX_CODEWORDS)
    """V, the same for all digits; by default the largest code + 1."""
    collisions: Policy = "none"
    """Items with equal codes: none keeps them, digit numbers them in one more digit, reassign changes few digits."""
    id_column: str | None = None
    """Column of the raw ids in a Parquet file, if it has another name than raw_id, item or item_id."""
    seed: Seed = 0
    """Seed of reassign, and of the sample of items whose quality is measured."""


class OwnCodes(BareCodes):
    """The checked codes of a file. Raises UsageError for a missing file, DataError for an invalid one."""

    def __init__(self, path: str, values: Mapping[str, Any], data: Artifact) -> None:
        config = validate(OwnCodesConfig, "tokenizer", values)
        ids = (config.id_column,) if config.id_column else ID_COLUMNS
        rows = ItemRows(user_path(path), "codes", ids, integers=True)
        self.sha256, self.seed = sha256_file(rows.path), config.seed
        raw_ids = read_table(data.path / "items.parquet", ITEMS, ["raw_id"])["raw_id"].to_pylist()
        code_IK = rows.read(raw_ids)
        digits, limit = code_IK.shape[1], config.codewords or MAX_CODEWORDS
        if digits != (config.codebooks or min(digits, MAX_DIGITS)):
            allowed = config.codebooks or f"at most {MAX_DIGITS}"
            raise DataError(f"{rows.path} has {digits:,} codes per item, but K is {allowed}.")
        outside_I = ((code_IK < 0) | (code_IK >= limit)).any(axis=1)
        if outside_I.any():
            row = int(outside_I.argmax())
            code = next(code for code in code_IK[row].tolist() if not 0 <= code < limit)
            why = f"V is {'' if config.codewords else 'at most '}{limit:,}"
            what = f"the item {raw_ids[row]} has the code {code:,}; codes count from 0 and {why}."
            raise DataError(f"{rows.path}: {what}")
        self.code_IK = np.ascontiguousarray(code_IK, dtype=np.uint16)
        self.codewords = config.codewords or max(2, int(self.code_IK.max()) + 1)
        self.config = config.model_copy(update={"codebooks": digits, "codewords": self.codewords})

    def external(self) -> Mapping[str, str]:
        """The hash of the file."""
        return {"tokenizer/codes": self.sha256}

    def codes(self) -> np.ndarray:
        """``codes_IK`` as uint16."""
        return self.code_IK
