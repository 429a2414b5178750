"""The memory of the codes of a large catalogue: read from a file, under a model, under exhaustive search.

    python bench/codes.py [--items 1000000] [--digits 32]

Prints the additional resident memory of the process in MiB (not mapped from files) after each step, and its peak. The
model is narrow, so that its parameters are small.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.schema import ITEMS, USERS
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.stages.load import load_catalog

V = 256


def held() -> float:
    """MiB of this process that are not mapped from files."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def write(folder: Path, items: int, digits: int) -> None:
    """Random codes and the counts of their items, in the files of the stages."""
    codes_IK = np.random.default_rng(0).integers(V, size=(items, digits), dtype="uint16")
    CodesTable(codes_IK, V).write(folder)
    pq.write_table(USERS.empty_table(), folder / "users.parquet")
    empty = {field.name: pa.nulls(items, field.type) for field in ITEMS}
    empty["train_count"] = pa.array(np.ones(items), ITEMS.field("train_count").type)
    pq.write_table(pa.table(empty, schema=ITEMS), folder / "items.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument(
        "--folder", type=Path, help="the files are read from here, or written; default: a temporary one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "codes.parquet").exists():
            write(folder, options.items, options.digits)
        device, before, row = torch.device("cpu"), held(), {}
        inputs = dict.fromkeys(("data", "codes"), SimpleNamespace(path=folder))
        catalog = load_catalog(inputs).to(device)
        pa.default_memory_pool().release_unused()
        row["catalogue"] = held() - before
        model = Rpg(RpgConfig(width=8, heads=2, inner=8, layers=1), catalog, max_length=10).to(device)
        row["and_model"] = held() - before
        search = Exhaustive(catalog)
        row["and_exhaustive_search"] = held() - before
        assert len(search.groups.later_J) < catalog.items == search.items and model.digits == catalog.digits
        row["and_ranks_of_codes"] = held() - before
    row["peak_of_process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({name: round(value) for name, value in row.items()}))


if __name__ == "__main__":
    main()
