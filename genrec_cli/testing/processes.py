"""Two processes that train together, started from within a test."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from genrec_cli.distributed import TorchGroup
from genrec_cli.process_group import set_group


def run_two(contract: type[Any], folder: Path) -> None:
    """Call ``contract().train_fixed(folder)`` in two processes of one process group."""
    folder.mkdir(exist_ok=True)
    mp.spawn(_join, (contract, folder), nprocs=2)


def _join(rank: int, contract: type[Any], folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    set_group(TorchGroup(rank, 2, rank, store))
    contract().train_fixed(folder)
    dist.destroy_process_group()
