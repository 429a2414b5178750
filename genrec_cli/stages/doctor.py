"""Checks of the machine. Each check has a result and, if something is wrong, the command that repairs it."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "problem"
DEFAULT_ENCODER = "sentence-transformers/sentence-t5-base"
GIB = 2**30


class Check(NamedTuple):
    """One result. ``problem``: genrec cannot work; ``note``: something is slower or missing."""

    name: str
    state: str
    found: str
    remedy: str | None = None


def examine(root: Path) -> list[Check]:
    """Every check, cheapest first. Nothing is installed or downloaded, and no file stays."""
    python = Check("Python", OK, f"{platform.python_version()}, {sys.executable}")  # pip refuses an older one
    return [python, *_packages(), *_torch(), _memory(), *_disk(root), _encoder()]


def _packages() -> Iterator[Check]:
    """Installed versions against the lower bounds in the metadata of the package."""
    try:
        requirements = [text for text in metadata.requires("genrec-cli") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        yield Check("genrec", NOTE, "run from its source folder, not installed", "pip install -e .")
        return
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)[0]  # type: ignore[index]
        lower = re.search(r">=\s*([\d.]+)", requirement)
        try:
            version = metadata.version(name)
            wrong = f"{version}, older than {lower[1]}" if lower and _numbers(version) < _numbers(lower[1]) else None
        except metadata.PackageNotFoundError:
            wrong = "not installed"
        yield Check(name, PROBLEM, wrong, f"pip install '{requirement}'") if wrong else Check(name, OK, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _torch() -> Iterator[Check]:
    """The build of torch, the device, and whether bf16 is fast on it."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch build", PROBLEM, f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if torch.cuda.is_available() or not _nvidia_visible():
        yield Check("torch build", OK, build)
    elif build == "CPU":
        remedy = "pip install --force-reinstall torch    (or: uv pip install --torch-backend=auto torch)"
        yield Check("torch build", NOTE, "CPU; a GPU is visible, but torch is built for CPU only", remedy)
    else:
        remedy = "update the NVIDIA driver, or install a torch build for its CUDA version"
        yield Check("torch build", NOTE, f"{build}; the GPU cannot be used", remedy)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("device", OK, f"cuda: {names}")
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        if torch.backends.mps.is_available():
            yield Check("device", OK, "mps")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Check("device", OK, f"cpu: {cores} cores, torch uses {torch.get_num_threads()} threads")
        fast = cpu_has_bf16()
    slow = Check("bf16", NOTE, "only emulated on this device, so it is slow", "keep fp32, the default")
    yield Check("bf16", OK, "fast on this device: --set train.precision=bf16") if fast else slow


def _nvidia_visible() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def cpu_has_bf16() -> bool:
    return bool(_cpu_flags() & {"amx_bf16", "avx512_bf16"})


def _cpu_flags() -> set[str]:
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if flags := re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE):
            return set(flags[1].split())
    return set()


def _memory() -> Check:
    """Free memory, within the limit of a container if there is one."""
    try:
        facts = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return Check("memory", NOTE, "unknown on this system")
    free = int(re.search(r"MemAvailable:\s+(\d+)", facts)[1]) * 1024  # type: ignore[index]
    with suppress(OSError, ValueError):  # no container, or no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    if free < 2 * GIB:
        return Check("memory", NOTE, f"{free / GIB:.1f} GiB free", "2 GiB or more is better: close other programs")
    return Check("memory", OK, f"{free / GIB:.1f} GiB free")


def _disk(root: Path) -> Iterator[Check]:
    """Whether the root can be written, tested with a temporary file, and the free space."""
    folder = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        yield Check("root", PROBLEM, f"{root} cannot be written: {error.strerror}", "choose another: --root DIR")
        return
    yield Check("root", OK, f"{root} can be written")
    free = shutil.disk_usage(folder).free / GIB
    full = Check("disk", NOTE, f"{free:.1f} GiB free under {folder}", "make room, or choose --root elsewhere")
    yield full if free < 1 else Check("disk", OK, f"{free:.1f} GiB free")


def _encoder() -> Check:
    """Whether the default text encoder is on disk."""
    name = os.environ.get("GENREC_ENCODER") or DEFAULT_ENCODER
    if name == "lsa":
        return Check("encoder", OK, "lsa (offline)")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    if Path(name).is_dir() or (cache / f"models--{name.replace('/', '--')}" / "snapshots").is_dir():
        return Check("encoder", OK, f"{name} (on disk)")
    remedy = "without a network: genrec tokenize --encoder lsa    or    GENREC_ENCODER=lsa"
    return Check("encoder", NOTE, f"{name} is not on disk; it is downloaded at its first use", remedy)
