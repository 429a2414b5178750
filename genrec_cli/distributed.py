"""Devices and processes. The only place that looks at the machine, or knows that several processes work together.

Started by torchrun, each process is a *rank* with a device of its own, and all hold the same model. They take
their shares of each batch and of the users, and add up what they found. Rank 0, the *main* one, alone writes and
speaks. Everything else in the house asks :func:`here` and gets :class:`Ranks`, whose methods do nothing where a
process is alone.

Why not DistributedDataParallel: it averages one loss over ranks. Here each of several losses is divided by its
count over all ranks, which masks decide anew in every pass, so the counts are added up between forward and
backward and the gradients are sums. What DDP is good at, sending gradients while the backward pass still computes
others, takes :class:`Gradients` 30 lines.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from genrec_cli.errors import Interrupted, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
LARGE = 1 << 16
"""A gradient of so many numbers is sent by itself; smaller ones go together."""
PATIENCE = 3.0
"""Seconds that a process which failed waits for the others to have failed too, so that no one is ended halfway."""


# ---- the ranks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """This process among those that work together. All of them must call the methods in the same order."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Number of this process on its machine, which is also that of its CUDA device."""
    store: Any = None
    """Where torchrun lets processes leave notes; it outlives each of them."""

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def seed(self, *words: int) -> int:
        """A seed for this rank's own random stream; the main one has the stream of a process that is alone."""
        if self.main and len(words) == 1:
            return words[0]
        return int(np.random.SeedSequence([*words, self.rank]).generate_state(1, np.uint64)[0])

    def batch_size(self, size: int, rows: int) -> int:
        """``size``, or less where ranks that take batches in turn would otherwise go away empty-handed."""
        if rows < self.world:
            raise UsageError(f"{rows} users cannot be shared by {self.world} processes.", hint="Start fewer of them")
        return size if -(-rows // size) >= self.world else rows // self.world

    # ---- what they tell each other ---------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if not self.alone:
            with _peers():
                dist.all_reduce(tensor)
        return tensor

    def most(self, *values: float) -> list[float]:
        """The largest of each value over ranks. Goes through the host: no device is waited for."""
        if self.alone:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        with _peers():
            dist.all_reduce(together, dist.ReduceOp.MAX)
        return together.tolist()

    def agree(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is on any rank."""
        return [value > 0 for value in self.most(*flags)]

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        """The mean of each value over ranks, weighted."""
        if self.alone:
            return dict(values)
        *sums, total = self.sum(torch.tensor([*(v * weight for v in values.values()), weight], dtype=torch.float64))
        return {name: float(value / total) for name, value in zip(values, sums, strict=True)}

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """On the main rank what each one gave (first axes may differ); nothing on the others."""
        if self.alone:
            return [array]
        length_W = torch.zeros(self.world, dtype=torch.int64)
        length_W[self.rank] = len(array)
        lengths = self.sum(length_W).tolist()
        parts = [array] if self.main else []
        with _peers():
            if not self.main and len(array):
                dist.send(torch.from_numpy(np.ascontiguousarray(array)), 0)
            for rank in range(1, self.world if self.main else 0):
                part = torch.from_numpy(np.empty((lengths[rank], *array.shape[1:]), array.dtype))
                if lengths[rank]:
                    dist.recv(part, rank)
                parts.append(part.numpy())
        return parts

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the main one's numbers."""
        for tensor in tensors if not self.alone else ():
            with _peers(), torch.no_grad():
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait for all."""
        self.most(0.0)


_here = Ranks()


def here() -> Ranks:
    """This process among the others."""
    return _here


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """A rank that cannot be reached is one error with its exit code; gloo and NCCL raise no narrower class."""
    try:
        yield
    except RuntimeError as error:
        raise Interrupted(
            f"stopped: another process of this job ended, or cannot be reached ({str(error).splitlines()[0][:150]})",
            hint="the same command goes on from the last checkpoint, on any number of processes",
        ) from None


class Gradients:
    """Sums gradients over ranks, the large ones while the backward pass still computes those before them.

    They leave in one fixed order, the model's reversed, so that ranks whose batches differ in layout agree. Small
    ones are put together and leave at the end.
    """

    def __init__(self, parameters: Iterable[Tensor], ranks: Ranks) -> None:
        self.ranks = ranks
        wanted = [p for p in parameters if p.requires_grad][::-1]
        self.large = [p for p in wanted if p.numel() >= LARGE]
        self.small = [p for p in wanted if p.numel() < LARGE]
        self.sending = False
        self.ready: set[int] = set()
        self.sent: list[dist.Work] = []
        for parameter in () if ranks.alone else self.large:
            parameter.register_post_accumulate_grad_hook(self._send_ready)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The backward pass of one part of a step; after the last one every gradient is that of all ranks."""
        self.sending = last and not self.ranks.alone
        self.ready, self.sent = set(), []
        loss.backward()
        if not self.sending:
            return
        self._send(p for p in self.large[len(self.sent) :] if p.grad is not None)
        small = [p.grad for p in self.small if p.grad is not None]
        if small:
            flat = self.ranks.sum(torch.cat([g.flatten() for g in small]))
            parts = flat.split([g.numel() for g in small])
            torch._foreach_copy_(small, [part.view_as(g) for part, g in zip(parts, small, strict=True)])
        with _peers():
            for work in self.sent:
                work.wait()

    def _send_ready(self, parameter: Tensor) -> None:
        """Called by autograd once a gradient is complete."""
        if self.sending:
            self.ready.add(id(parameter))
            while len(self.sent) < len(self.large) and id(self.large[len(self.sent)]) in self.ready:
                self._send([self.large[len(self.sent)]])

    def _send(self, parameters: Iterable[Tensor]) -> None:
        with _peers():
            self.sent += [dist.all_reduce(p.grad, async_op=True) for p in parameters]


# ---- joining and leaving -------------------------------------------------------------------------


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Work together with the other processes that torchrun started."""
    global _here
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and local < torch.cuda.device_count()
    try:
        store, rank, world = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if cuda and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"The processes do not find each other: {first}", hint="Start them with torchrun") from None
    _here = Ranks(rank, world, local, store)
    yield
    dist.destroy_process_group()
    _here = Ranks()


def speaks() -> bool:
    """Whether this process, which ends by an error, is to print it: the first that met one is.

    Processes that all fail (they were asked to stop, or a setting is wrong) leave together, since torchrun ends
    the others as soon as one has left.
    """
    if _here.alone:  # they have not joined yet: each finds the same wrong
        return os.environ.get("RANK", "0") == "0"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        first = _here.store.add("failed", 1) == 1
        until = time.monotonic() + PATIENCE
        while _here.store.add("failed", 0) < _here.world and time.monotonic() < until:
            time.sleep(0.05)
    except RuntimeError:  # torchrun itself is gone
        return _here.main
    return first


# ---- the device ----------------------------------------------------------------------------------


def resolve_device(name: str) -> torch.device:
    """``auto`` takes the best there is; a device that was asked for by name and is absent is an error.

    Where several processes share a machine, each takes the CUDA device of its own number.
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES:
        raise UsageError(f"There is no device '{name}'.", hint=f"--device takes {', '.join(DEVICES)}")
    available = {
        "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available() and _here.alone,
    }  # fmt: skip
    if kind == "auto":
        kind = name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[kind]:
        raise UsageError(
            f"This machine has no usable {kind} device.",
            hint="--device auto    takes what there is; genrec doctor says why",
        )
    if kind == "cuda":
        # cuDNN plans its attention anew for every shape (0.3 s each), and packed batches are all of other shapes.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if not _here.alone:
            name = _own_device(index)
    return torch.device(name)


def _own_device(index: str) -> str:
    """The CUDA device of this rank."""
    if index:
        raise UsageError(
            f"--device cuda:{index} names one device, and {_here.world} processes were started.",
            hint="--device cuda    gives each its own",
        )
    if _here.local >= torch.cuda.device_count():
        raise UsageError(
            f"Process {_here.local} of this machine has no device: there are {torch.cuda.device_count()}.",
            hint=f"torchrun --nproc-per-node {torch.cuda.device_count()}, or --device cpu",
        )
    torch.cuda.set_device(_here.local)
    return f"cuda:{_here.local}"
