"""Is this machine ready? Each check gives a fact and, where something is amiss, what to type."""

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

DISTRIBUTION = "genrec-cli"
DEFAULT_ENCODER = "sentence-transformers/sentence-t5-base"
GIB = 2**30


class Check(NamedTuple):
    """One finding. ``problem``: genrec cannot work; ``note``: something is slower or absent."""

    name: str
    state: str
    found: str
    remedy: str | None = None


def examine(root: Path) -> list[Check]:
    """Every check, cheapest first. Nothing is installed, fetched or left behind."""
    return [_python(), *_packages(), *_torch(), _memory(), *_disk(root), _encoder()]


def _python() -> Check:
    return Check("Python", OK, f"{platform.python_version()}, {sys.executable}")  # pip refuses an older one


def _packages() -> Iterator[Check]:
    """Installed versions against the lower bounds that the package itself declares."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Check("genrec", NOTE, "run from its source folder, not installed", "pip install -e .")
        return
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        name = re.match(r"[\w.-]+", requirement)[0]  # type: ignore[index]
        least = re.search(r">=\s*([\d.]+)", requirement)
        try:
            version = metadata.version(name)
            wrong = f"{version}, older than {least[1]}" if least and _numbers(version) < _numbers(least[1]) else None
        except metadata.PackageNotFoundError:
            wrong = "not installed"
        yield Check(name, PROBLEM, wrong, f"pip install '{requirement}'") if wrong else Check(name, OK, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _torch() -> Iterator[Check]:
    """The build, the device it can use, and whether bf16 is fast there."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch build", PROBLEM, f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    usable = torch.cuda.is_available()
    if usable or not _nvidia_visible():
        yield Check("torch build", OK, build)
    elif build == "CPU":
        what = "CPU; a GPU is visible, but torch is built for CPU only"
        remedy = "pip install --force-reinstall torch    (or: uv pip install --torch-backend=auto torch)"
        yield Check("torch build", NOTE, what, remedy)
    else:
        remedy = "update the NVIDIA driver, or install a torch build for its CUDA version"
        yield Check("torch build", NOTE, f"{build}; the GPU cannot be used", remedy)
    if usable:
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("device", OK, f"cuda: {names}")
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        if torch.backends.mps.is_available():
            yield Check("device", OK, "mps")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield Check("device", OK, f"cpu: {cores} cores, torch uses {torch.get_num_threads()} threads")
        fast = bool(_cpu_flags() & {"amx_bf16", "avx512_bf16"})
    if fast:
        yield Check("bf16", OK, "fast on this device: --set train.precision=bf16")
    else:
        yield Check("bf16", NOTE, "only emulated on this device, hence slow", "keep fp32, the default")


def _nvidia_visible() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def _memory() -> Check:
    """What is free, within the limit of a container if there is one."""
    try:
        facts = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return Check("memory", NOTE, "unknown on this system")
    free = int(re.search(r"MemAvailable:\s+(\d+)", facts)[1]) * 1024  # type: ignore[index]
    with suppress(OSError, ValueError):  # without a container there is no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    if free < 2 * GIB:
        return Check("memory", NOTE, f"{free / GIB:.1f} GiB free", "2 GiB or more is better: close other programs")
    return Check("memory", OK, f"{free / GIB:.1f} GiB free")


def _disk(root: Path) -> Iterator[Check]:
    """Whether artifacts can be written, tried with a file that vanishes at once."""
    folder = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Check("root", PROBLEM, f"{root} cannot be written: {error.strerror}", "choose another: --root DIR")
        return
    yield Check("root", OK, f"{root} can be written")
    free = shutil.disk_usage(folder).free
    if free < GIB:
        yield Check("disk", NOTE, f"{free / GIB:.1f} GiB free under {folder}", "make room, or choose --root elsewhere")
    else:
        yield Check("disk", OK, f"{free / GIB:.1f} GiB free")


def _encoder() -> Check:
    """Whether the default text encoder works without a network."""
    name = os.environ.get("GENREC_ENCODER") or DEFAULT_ENCODER
    if name == "lsa":
        return Check("encoder", OK, "lsa (offline)")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    if Path(name).is_dir() or (cache / f"models--{name.replace('/', '--')}" / "snapshots").is_dir():
        return Check("encoder", OK, f"{name} (on disk)")
    remedy = "without a network: genrec tokenize --encoder lsa    or    GENREC_ENCODER=lsa"
    return Check("encoder", NOTE, f"{name} is not on disk; its first use fetches it", remedy)
