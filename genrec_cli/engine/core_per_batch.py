"""Batches side by side on the cores of a CPU, one core for each.

The operators of an evaluation batch are small: divided over all cores, they wait for each other about a quarter of the
time. Whole batches do not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


def core_per_batch(work: Callable[[In], Out], batches: Iterable[In], device: torch.device) -> Iterator[Out]:
    """The results of ``work``, which makes no gradient, in the order of the batches.

    Batches are worked on one by one, by all cores, on another device than a CPU and where there are fewer batches than
    cores.
    """
    cores, rest = torch.get_num_threads() if device.type == "cpu" else 1, iter(batches)
    first = list(islice(rest, cores))
    if cores == 1 or len(first) < cores:
        yield from map(work, chain(first, rest))
        return
    # Modes of torch belong to a thread, so that the new threads do not have the caller's.
    low, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def one(batch: In) -> Out:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=low):
            return work(batch)

    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for batch in chain(first, rest):
                waiting.append(pool.submit(one, batch))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            torch.set_num_threads(cores)  # the threads' count would become that of every new thread
