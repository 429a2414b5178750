"""download: fetch, copy or generate the raw files of a data set.

The key of a raw artifact hashes the ``[source]`` settings only, so all mirrors give the same artifact. The digest
hashes the content: if the files change, everything made from the old ones is stale.

``SHA256SUMS`` lists the complete files, also after a kill or with a damaged manifest: a file with this checksum is not
fetched again, and a file that is fetched again must have it. ``--force`` ignores it.
"""

import fcntl
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import validate
from genrec_cli.errors import DownloadError, InputError, UsageError
from genrec_cli.files import sha256_file, write_atomically
from genrec_cli.sources import datasets
from genrec_cli.sources.base import RemoteFile, Source
from genrec_cli.sources.fetch import Patience, damage, fetch

VERSION = 1
SUMS = "SHA256SUMS"
FICLONE = 0x40049409
"""ioctl of Linux that makes a file use the blocks of another one (copy on write)."""


def plan(dataset: str | None, given: Mapping[str, Any]) -> Plan:
    """The plan of a data set of the catalog, or of another name with ``source.name``, and settings of ``[source]``."""
    is_new = dataset and dataset not in datasets.DATASETS and given.get("name")
    fixed = {} if is_new else datasets.settings(dataset)
    datasets.check_name(dataset)
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise UsageError(
                f"The data set '{dataset}' has source.{key} = '{value}', not '{given[key]}'.",
                hint="Choose another --dataset, or leave this setting out",
            )
    values = {**given, **fixed}
    name = str(values["name"])
    config = validate(registry.load("source", name).Config, "source", values)
    result = Plan(str(dataset), "raw", name, VERSION, {"source": config.model_dump(mode="json")})
    source_of(result)  # refuses inconsistent settings before any work
    return result


def download(
    ws: Workspace,
    plan: Plan,
    *,
    from_dir: Path | None = None,
    urls: Sequence[str] = (),
    patience: Patience | None = None,
    force: bool = False,
) -> Artifact:
    """Make the raw artifact of a plan.

    Args:
        from_dir: folder with the files, which are copied instead of fetched.
        urls: addresses instead of those of the catalog, each of one file or of a folder with all files.
        force: fetch every file again, and accept files that differ from the recorded ones.

    Raises:
        UsageError: both are given, or the source generates its files.
        InputError: a file is missing in ``from_dir``.
        DownloadError: a file cannot be fetched or is damaged.
    """
    source = source_of(plan)
    files = source.files()
    if (from_dir or urls) and not files:
        problem = f"'{plan.dataset}' is generated: there is nothing to fetch."
        raise UsageError(problem, hint="Leave out --from-dir and --url")
    if from_dir and urls:
        raise UsageError("--from-dir and --url exclude each other.", hint="Choose one")
    if not files:
        return _generate(ws, plan, source, force)
    files = _redirected(files, urls)
    local = _local_files(from_dir, files) if from_dir else {}
    with ws.build(plan, resumable=True) as draft:
        sums = {} if force or from_dir else _read_sums(draft.path)
        origin = {}
        for file in files:
            final = draft.path / file.name
            if from_dir:
                _copy(local[file.name], final)
                origin[file.name] = "--from-dir"
            else:
                origin[file.name] = _fetch(file, draft.path, sums.get(file.name), plan, patience, force)
            sums[file.name] = sha256_file(final)
            lines = [f"{sums[name]}  {name}\n" for name in sorted(sums)]
            write_atomically(draft.path / SUMS, "".join(lines).encode())
            console.say(f"{file.name}: {final.stat().st_size:,} bytes from {origin[file.name]}")
        for leftover in [path for pattern in ("*.part", "*.part.json", ".*.tmp") for path in draft.path.glob(pattern)]:
            leftover.unlink()
        draft.result["origin"] = origin
        draft.result["bytes"] = sum((draft.path / file.name).stat().st_size for file in files)
    return ws.made(plan)


def source_of(plan: Plan) -> Source:
    """The source of a plan, built from its settings."""
    kind = registry.load("source", plan.label)
    source: Source = kind(validate(kind.Config, "source", plan.config["source"]))
    return source


def changed(ws: Workspace, plan: Plan, from_dir: Path) -> bool:
    """Whether a folder has other files than the finished artifact, so that it must be made again."""
    done = ws.done(plan)
    if done is None:
        return False
    recorded = done.manifest["files"]
    for file in source_of(plan).files():
        path = from_dir / file.name
        if path.is_file() and (file.name not in recorded or recorded[file.name]["sha256"] != sha256_file(path)):
            console.warn(f"{path} differs from the {file.name} of {done.path.name}; it is made again.")
            return True
    return False


def _generate(ws: Workspace, plan: Plan, source: Source, force: bool) -> Artifact:
    with ws.build(plan, force=force) as draft, console.progress(total=1.0, desc=plan.label) as bar:
        source.generate(draft.path, lambda done: bar.update(done - bar.n))
        if not any(path != draft.scratch for path in draft.path.iterdir()):
            problem = f"The source '{plan.label}' has nothing to download: its files are yours."
            raise UsageError(problem, hint="genrec preprocess --help    shows how to give them")
        draft.result["origin"] = "generated"
        draft.result["bytes"] = sum(path.stat().st_size for path in draft.path.rglob("*") if path.is_file())
    return ws.made(plan)


def _fetch(
    file: RemoteFile, folder: Path, recorded: str | None, plan: Plan, patience: Patience | None, force: bool
) -> str:
    """Fetch a file unless it is complete and unchanged already. Returns its origin."""
    final = folder / file.name
    expected = file.sha256 or recorded
    if recorded and recorded == expected and final.is_file() and sha256_file(final) == expected:
        return "an earlier call"
    if force:
        for stale in folder.glob(f"{file.name}.part*"):
            stale.unlink()
    hint = "Run it again to continue; or fetch the files by hand into a folder and give it: "
    hint += f"genrec download --dataset {plan.dataset} --from-dir FOLDER"
    if recorded and file.sha256 is None:
        hint += "; --force accepts a file that differs from the recorded one"
    return fetch(file._replace(sha256=expected), folder, patience=patience, hint=hint)


def _local_files(folder: Path, files: Sequence[RemoteFile]) -> dict[str, Path]:
    """The files of ``--from-dir``, after the check that all are present and complete."""
    if not folder.is_dir():
        raise InputError(f"--from-dir: there is no folder {folder}.")
    missing = [file for file in files if not (folder / file.name).is_file()]
    if missing:
        raise InputError(
            f"{folder} has no {' and no '.join(file.name for file in missing)}.",
            hint="; ".join(f"{file.name} can be had from {file.urls[0]}" for file in missing),
        )
    found = {file.name: (folder / file.name).resolve() for file in files}
    for file in files:
        try:
            wrong = damage(found[file.name], file.sha256)
        except OSError as error:
            raise InputError(f"{folder / file.name} cannot be read: {error.strerror or error}.") from None
        if wrong:
            raise DownloadError(f"{folder / file.name} {wrong}.", hint=f"Fetch it again from {file.urls[0]}")
    return found


def _copy(path: Path, final: Path) -> None:
    """Copy a file and rename it when it is complete; on the same blocks (FICLONE) where the file system can.

    With a hard link, a program that overwrites the original in place would change the artifact.
    """
    part = final.with_name(f"{final.name}.part")
    try:
        with path.open("rb") as source, part.open("wb") as copy:
            try:
                fcntl.ioctl(copy.fileno(), FICLONE, source.fileno())
            except OSError:  # another disk, or a file system without FICLONE
                shutil.copyfileobj(source, copy, 1 << 20)
        part.replace(final)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{path} cannot be copied to {final}: {error.strerror or error}.") from None


def _redirected(files: Sequence[RemoteFile], urls: Sequence[str]) -> list[RemoteFile]:
    """The files with the addresses of ``--url``, or of the catalog where none is given."""
    given: dict[str, list[str]] = {file.name: [] for file in files}
    for url in urls:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and url.isascii() and " " not in url
        except ValueError:  # an open bracket around an address of IPv6
            valid = None
        if not valid:
            problem = f"--url {url} is not an address that starts with http:// or https://."
            raise UsageError(problem, hint="For files on this machine: --from-dir DIR")
        last = parts.path.rpartition("/")[2]
        if last in given:
            given[last].append(url)
        elif last.endswith((".gz", ".zip")):
            problem = f"--url {url} is none of the files {', '.join(given)}."
            raise UsageError(problem, hint="Give the file or its folder")
        else:
            for name in given:
                given[name].append(parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl())
    return [file._replace(urls=tuple(given[file.name]) or file.urls) for file in files]


def _read_sums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of the complete files."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    rows = (line.partition("  ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {name: digest for digest, _, name in rows}
