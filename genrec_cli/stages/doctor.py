"""Is this machine ready? Each check gives a fact and, where something is amiss, what to type."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "problem"

DISTRIBUTION = "genrec-cli"
DEFAULT_ENCODER = "sentence-transformers/sentence-t5-base"
GIB = 2**30


class Check(NamedTuple):
    """One finding. ``problem`` means that genrec cannot work; ``note`` that something is slower or absent."""

    name: str
    state: str
    found: str
    remedy: str | None = None


def examine(root: Path) -> list[Check]:
    """Every check, cheapest first. Nothing is installed, fetched or left behind."""
    return [_python(), *_packages(), *_torch(), _memory(), *_disk(root), _encoder()]


def usable(checks: list[Check]) -> bool:
    """Whether nothing is a problem."""
    return all(check.state != PROBLEM for check in checks)


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
        except metadata.PackageNotFoundError:
            yield Check(name, PROBLEM, "not installed", f"pip install '{requirement}'")
            continue
        if least and _numbers(version) < _numbers(least[1]):
            yield Check(name, PROBLEM, f"{version}, older than {least[1]}", f"pip install '{requirement}'")
        else:
            yield Check(name, OK, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _torch() -> Iterator[Check]:
    """The build, the device it can use, and whether bf16 pays there."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch build", PROBLEM, f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"  # torch.version.cuda: None, or as 12.8
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Check("torch build", OK, build)
        yield Check("device", OK, f"cuda: {names}")
        if torch.cuda.is_bf16_supported(including_emulation=False):
            yield Check("bf16", OK, "supported: --set train.precision=bf16")
        else:
            yield Check("bf16", NOTE, "not supported by this GPU", "keep fp32")
        return
    if _nvidia_visible():
        remedy = "pip install --force-reinstall torch    (or: uv pip install --torch-backend=auto torch)"
        what = "a GPU is visible, but torch is built for CPU only" if build == "CPU" else "the GPU cannot be used"
        fix = remedy if build == "CPU" else "update the NVIDIA driver, or install a torch build for its CUDA version"
        yield Check("torch build", NOTE, f"{build}; {what}", fix)
    else:
        yield Check("torch build", OK, build)
    if torch.backends.mps.is_available():
        yield Check("device", OK, "mps")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("device", OK, f"cpu: {cores} cores, torch uses {torch.get_num_threads()} threads")
    fast = _cpu_flags() & {"amx_bf16", "avx512_bf16"}
    yield (
        Check("bf16", OK, f"fast on this CPU ({', '.join(sorted(fast))})")
        if fast
        else Check("bf16", NOTE, "emulated on this CPU, hence slow", "keep fp32, the default")
    )


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
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no container limit
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
    if Path(name).is_dir() or (_hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").is_dir():
        return Check("encoder", OK, f"{name} (on disk)")
    return Check(
        "encoder",
        NOTE,
        f"{name} is not on disk; its first use fetches it",
        "without a network: genrec tokenize --encoder lsa    or    GENREC_ENCODER=lsa",
    )


def _hub_cache() -> Path:
    """Where Hugging Face keeps models, by its own environment variables."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
