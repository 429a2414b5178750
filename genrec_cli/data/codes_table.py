"""The codes table ``codes.parquet``: how codes are stored and checked.

Row i holds the K codes, from 0, of item i + 1. The metadata of the Parquet file hold V (``codewords``) and whether all
digits use one table of codewords (``shared``). Only with shared digits may an item have fewer than K codes and padding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli.data.schema import read_table, write_table
from genrec_cli.errors import DataError

FILE = "codes.parquet"
NO_CODE = -1
"""Padding in memory: the item has no code at this digit, so the digit is not pooled, predicted or counted."""
MAX_CODEWORDS = NO_CODE_ON_DISK = 65535
"""Largest V, and the padding in the file (uint16), which has the bits of :data:`NO_CODE` as int16."""


def codes_schema(digits: int, codewords: int = 0, *, shared: bool = False) -> pa.Schema:
    """Columns and metadata of the file for K digits of V codewords."""
    columns = [("item", pa.uint32()), ("codes", pa.list_(pa.uint16(), digits))]
    return pa.schema(columns, metadata={"codewords": str(codewords), "shared": str(int(shared))})


@dataclass(frozen=True)
class CodesTable:
    """The codes of all items."""

    codes_IK: np.ndarray
    """Codes from 0, of any integer type; :data:`NO_CODE` pads. After :meth:`read`: int16, or int32 if V needs it."""
    codewords: int
    """V, the same for every digit."""
    shared: bool = False
    """Whether a code has the same meaning in every digit."""

    def write(self, folder: Path) -> None:
        """Write ``codes.parquet``."""
        items, digits = self.codes_IK.shape
        stored_IK = np.where(self.codes_IK < 0, NO_CODE_ON_DISK, self.codes_IK).astype(np.uint16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(stored_IK.ravel()), digits)
        table = pa.table({"item": pa.array(np.arange(1, items + 1), pa.uint32()), "codes": column})
        write_table(table, folder / FILE, codes_schema(digits, self.codewords, shared=self.shared))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``codes.parquet``; int16 codes are not copied.

        Raises:
            DataError: the file is not such a table, a code is not below V, or an item has no code.
        """
        path = folder / FILE
        digits, codewords, shared = _description(path)
        column = read_table(path, codes_schema(digits), ["codes"]).column(0).combine_chunks()
        stored_IK = column.flatten().to_numpy().reshape(-1, digits)
        narrow = codewords <= np.iinfo(np.int16).max + 1
        codes_IK = stored_IK.view(np.int16) if narrow else stored_IK.astype(np.int32)
        valid_IK = stored_IK < codewords
        if not valid_IK.all():
            padding_IK = (stored_IK == NO_CODE_ON_DISK) & shared
            if not (valid_IK | padding_IK).all():
                highest = stored_IK[~(valid_IK | padding_IK)].max()
                raise DataError(f"{path} holds the code {highest}, but V is {codewords}.")
            if padding_IK.all(axis=1).any():
                raise DataError(f"{path} holds an item without any code.")
            if not narrow:
                codes_IK[padding_IK] = NO_CODE
        return cls(codes_IK, codewords, shared)


def _description(path: Path) -> tuple[int, int, bool]:
    """K, V and ``shared`` from the schema of a file."""
    try:
        schema = pq.read_schema(path)
        digits, metadata = schema.field("codes").type.list_size, schema.metadata or {}
        return digits, int(metadata[b"codewords"]), metadata[b"shared"] == b"1"
    except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
        hint = "Run genrec tokenize --force"
        raise DataError(f"{path} is not a table of codes: {type(error).__name__}: {error}.", hint=hint) from None
