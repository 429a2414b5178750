"""Devices, and processes that talk: the only place that looks at the machine or uses ``torch.distributed``.

Why not DistributedDataParallel: it averages one loss over group. Here each of several losses is divided by its
count over all group, which masks decide anew in every pass, so the counts are added up between forward and
backward, and the gradients are sums. What DDP is good at, sending gradients while the backward pass still computes
others, takes :class:`Gradients` 30 lines.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from genrec_cli.config import check_device
from genrec_cli.errors import Interrupted, UsageError
from genrec_cli.process_group import ProcessGroup, current_group, set_group

LARGE = 1 << 16
"""A gradient of so many numbers is sent by itself; smaller ones go together."""
PATIENCE = 3.0
"""Seconds that a process which failed waits for the others to have failed too, so that no one is ended halfway."""


# ---- processes -----------------------------------------------------------------------------------


class TorchGroup(ProcessGroup):
    """One of several processes.

    Args:
        local: number of this process on its machine, which is also that of its CUDA device.
        store: where torchrun lets processes leave notes; it outlives each of them.
    """

    def __init__(self, rank: int, world: int, local: int, store: dist.Store) -> None:
        self.rank, self.world, self.local, self.store = rank, world, local, store

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        with _peers():
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, *values: float) -> list[float]:
        together = torch.tensor(values, dtype=torch.float64)
        with _peers():
            dist.all_reduce(together, dist.ReduceOp.MAX)
        return together.tolist()

    def weighted_mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        *sums, total = self.all_reduce_sum(
            torch.tensor([*(v * weight for v in values.values()), weight], dtype=torch.float64)
        )
        return {name: float(value / total) for name, value in zip(values, sums, strict=True)}

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        length_W = torch.zeros(self.world, dtype=torch.int64)
        length_W[self.rank] = len(array)
        lengths = self.all_reduce_sum(length_W).tolist()
        if not self.main:
            with _peers():
                if len(array):
                    dist.send(torch.from_numpy(np.ascontiguousarray(array)), 0)
            return []
        parts = [np.empty((length, *array.shape[1:]), array.dtype) for length in lengths]
        parts[0] = array
        with _peers():
            for rank in range(1, self.world):
                if lengths[rank]:
                    dist.recv(torch.from_numpy(parts[rank]), rank)
        return parts

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        with _peers(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


class Gradients:
    """Sums gradients over group, the large ones while the backward pass still computes those before them.

    They leave in one fixed order, the model's reversed, so that group whose batches differ in layout agree. Small
    ones are put together and leave at the end.
    """

    def __init__(self, parameters: Iterable[Tensor], group: ProcessGroup) -> None:
        self.group = group
        wanted = [p for p in parameters if p.requires_grad][::-1]
        self.large = [p for p in wanted if p.numel() >= LARGE]
        self.small = [p for p in wanted if p.numel() < LARGE]
        self.sending = False
        self.ready: set[int] = set()
        self.sent: list[dist.Work] = []
        for parameter in () if group.single else self.large:
            parameter.register_post_accumulate_grad_hook(self._send_ready)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The backward pass of one part of a step; after the last one every gradient is that of all group."""
        self.sending = last and not self.group.single
        self.ready, self.sent = set(), []
        loss.backward()
        if not self.sending:
            return
        self._send([p for p in self.large[len(self.sent) :] if p.grad is not None])
        small = [p.grad for p in self.small if p.grad is not None]
        if small:
            flat = self.group.all_reduce_sum(torch.cat([g.flatten() for g in small]))
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

    def _send(self, parameters: list[Tensor]) -> None:
        with _peers():
            self.sent += [dist.all_reduce(p.grad, async_op=True) for p in parameters]


# ---- joining and leaving -------------------------------------------------------------------------


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Work together with the other processes that torchrun started."""
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and local < torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(local)  # also for those who only say "cuda", such as an encoder
    try:
        store, rank, world = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if cuda and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"The processes do not find each other: {first}", hint="Start them with torchrun") from None
    set_group(TorchGroup(rank, world, local, store))
    yield
    dist.destroy_process_group()
    set_group(ProcessGroup())


def speaks() -> bool:
    """Whether this process, which ends by an error, is to print it: the first that met one is.

    Processes that all fail (they were asked to stop, or a setting is wrong) leave together, since torchrun ends
    the others as soon as one has left.
    """
    team = current_group()
    if not isinstance(team, TorchGroup):  # they have not joined yet: each finds the same wrong
        return os.environ.get("RANK", "0") == "0"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        first = team.store.add("failed", 1) == 1
        until = time.monotonic() + PATIENCE
        while team.store.add("failed", 0) < team.world and time.monotonic() < until:
            time.sleep(0.05)
    except RuntimeError:  # torchrun itself is gone
        return team.main
    return first


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


# ---- the device ----------------------------------------------------------------------------------


def resolve_device(name: str) -> torch.device:
    """``auto`` takes the best there is; a device that was asked for by name and is absent is an error.

    Of several processes each takes the CUDA device of its own number.
    """
    check_device(name)
    kind, _, index = name.partition(":")
    team = current_group()
    mps = torch.backends.mps.is_available() and team.single
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    if kind == "auto":
        kind = name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[kind]:
        raise UsageError(
            f"This machine has no usable {kind} device.",
            hint="--device auto    takes what there is; genrec doctor says why",
        )
    if index and int(index) >= (torch.cuda.device_count() if kind == "cuda" else 1):
        raise UsageError(f"There is no device '{name}'.", hint=f"--device {kind}    takes the first one")
    if kind == "cuda":
        # cuDNN plans its attention anew for every shape (0.3 s each), and packed batches are all of other shapes.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if isinstance(team, TorchGroup):
            name = _own_device(team, index)
    return torch.device(name)


def _own_device(team: TorchGroup, index: str) -> str:
    """The CUDA device of this process."""
    if index:
        raise UsageError(
            f"--device cuda:{index} names one device, and {team.world} processes were started.",
            hint="--device cuda    gives each its own",
        )
    if team.local >= torch.cuda.device_count():
        raise UsageError(
            f"Process {team.local} of this machine has no device: there are {torch.cuda.device_count()}.",
            hint=f"torchrun --nproc-per-node {torch.cuda.device_count()}, or --device cpu",
        )
    return f"cuda:{team.local}"
