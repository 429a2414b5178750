"""The file of a vectors artifact: ``vectors`` (float32, I x D), row i for item i + 1."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genrec_cli.errors import DataError

FILE = "vectors.safetensors"


def read_vectors(folder: Path) -> np.ndarray:
    """``vec_ID`` of a vectors artifact. The error names the file."""
    try:
        return load_file(folder / FILE)["vectors"]
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"{folder / FILE} cannot be read: {error}.", hint="Run genrec tokenize --force") from None
