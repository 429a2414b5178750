"""Devices, and the process group of several processes: the only module that uses ``torch.distributed``.

DistributedDataParallel averages one loss over processes. Here each of several losses is divided by its count over all
processes, which masks decide anew in every pass, so the counts are summed between forward and backward, and the
gradients are sums. :class:`Gradients` overlaps their all-reduce with the backward pass, as DDP does.
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
from torch.distributed.rendezvous import rendezvous

from genrec_cli.config import check_device
from genrec_cli.errors import Interrupted, UsageError
from genrec_cli.process_group import ProcessGroup, current_group, set_group

LARGE = 1 << 16
"""A gradient with this many elements or more has an all-reduce of its own; smaller ones are concatenated."""
PATIENCE = 3.0  # seconds that a failed process waits for the others to fail too, so that none is killed while it writes


class TorchGroup(ProcessGroup):
    """One of several processes: ``local`` is its rank on its machine and the index of its CUDA device, and ``store``
    torchrun's key-value store, which outlives it."""

    def __init__(self, rank: int, world: int, local: int, store: dist.Store) -> None:  # type: ignore[name-defined]
        self.rank, self.world, self.local, self.store = rank, world, local, store

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        with _peer_errors():
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, *values: float) -> list[float]:
        together = torch.tensor(values, dtype=torch.float64)
        with _peer_errors():
            dist.all_reduce(together, dist.ReduceOp.MAX)
        return together.tolist()

    def weighted_mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        terms = torch.tensor([*(v * weight for v in values.values()), weight], dtype=torch.float64)
        *sums, total = self.all_reduce_sum(terms).tolist()
        return {name: value / total for name, value in zip(values, sums, strict=True)}

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        length_W = torch.zeros(self.world, dtype=torch.int64)
        length_W[self.rank] = len(array)
        lengths = self.all_reduce_sum(length_W).tolist()
        with _peer_errors():
            if not self.main:
                if len(array):
                    dist.send(torch.from_numpy(np.ascontiguousarray(array)), 0)
                return []
            parts = [array, *(np.empty((length, *array.shape[1:]), array.dtype) for length in lengths[1:])]
            for rank in range(1, self.world):
                if lengths[rank]:
                    dist.recv(torch.from_numpy(parts[rank]), rank)
        return parts

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        with _peer_errors(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, 0)


class Gradients:
    """All-reduce of gradients; that of large ones overlaps with the rest of the backward pass, in the reverse order of
    the model, which is the same in all processes. Small ones are concatenated and reduced at the end."""

    def __init__(self, parameters: Iterable[Tensor], group: ProcessGroup) -> None:
        self.group = group
        trained = [p for p in parameters if p.requires_grad][::-1]
        self.large = [p for p in trained if p.numel() >= LARGE]
        self.small = [p for p in trained if p.numel() < LARGE]
        self.sending = False
        self.ready: set[int] = set()
        self.sent: list[dist.Work] = []
        for parameter in () if group.single else self.large:
            parameter.register_post_accumulate_grad_hook(self._send_ready)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """The backward pass of one micro-batch; after the last one every gradient is summed over all processes."""
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
        with _peer_errors():
            for work in self.sent:
                work.wait()

    def _send_ready(self, parameter: Tensor) -> None:
        """Called by autograd once a gradient is complete."""
        if self.sending:
            self.ready.add(id(parameter))
            while len(self.sent) < len(self.large) and id(self.large[len(self.sent)]) in self.ready:
                self._send([self.large[len(self.sent)]])

    def _send(self, parameters: list[Tensor]) -> None:
        with _peer_errors():
            self.sent += [dist.all_reduce(p.grad, async_op=True) for p in parameters]


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the process group that torchrun started."""
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and local < torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(local)  # also for code that asks for "cuda" without an index, such as an encoder
    try:
        store, rank, world = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if cuda and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"The processes cannot connect: {first}", hint="Start them with torchrun") from None
    set_group(TorchGroup(rank, world, local, store))
    yield
    dist.destroy_process_group()
    set_group(ProcessGroup())


def prints_error() -> bool:
    """Whether this process is the first with an error, which prints it. Processes that all fail (a stop, or a wrong
    setting) end together, since torchrun kills the others as soon as one has ended."""
    group = current_group()
    if not isinstance(group, TorchGroup):  # not joined yet: every process finds the same error
        return os.environ.get("RANK", "0") == "0"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        first = group.store.add("failed", 1) == 1
        deadline = time.monotonic() + PATIENCE
        while group.store.add("failed", 0) < group.world and time.monotonic() < deadline:
            time.sleep(0.05)
    except RuntimeError:  # torchrun has ended
        return group.main
    return first


@contextlib.contextmanager
def _peer_errors() -> Iterator[None]:
    """One error with its exit code for a rank that cannot be reached; gloo and NCCL raise no narrower class."""
    try:
        yield
    except RuntimeError as error:
        raise Interrupted(
            f"stopped: another process of this job ended, or cannot be reached ({str(error).splitlines()[0][:150]})",
            hint="the same command resumes from the last checkpoint, with any count of processes",
        ) from None


def resolve_device(name: str) -> torch.device:
    """A device by name; ``auto`` takes the best one. Of several processes each takes the CUDA device of its rank.
    UsageError if the device does not exist."""
    check_device(name)
    kind, _, index = name.partition(":")
    group, devices = current_group(), torch.cuda.device_count()
    mps = torch.backends.mps.is_available() and group.single
    available = {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    if kind == "auto":
        kind = name = next(device for device in available if available[device])
    if not available[kind]:
        hint = "--device auto    takes the best one; genrec doctor shows the reason"
        raise UsageError(f"This machine has no usable {kind} device.", hint=hint)
    if index and int(index) >= (devices if kind == "cuda" else 1):
        raise UsageError(f"There is no device '{name}'.", hint=f"--device {kind}    takes the first one")
    if kind == "cuda":
        # cuDNN plans its attention anew for every shape (0.3 s each), and packed batches differ in shape.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if kind != "cuda" or not isinstance(group, TorchGroup):
        return torch.device(name)
    if index:
        hint = "--device cuda    gives each process a device"
        raise UsageError(f"--device {name} names one device, and {group.world} processes were started.", hint=hint)
    if group.local >= devices:
        hint = f"torchrun --nproc-per-node {devices}, or --device cpu"
        raise UsageError(f"Process {group.local} of this machine has no device: there are {devices}.", hint=hint)
    return torch.device(f"cuda:{group.local}")
