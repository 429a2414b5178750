"""download: fetch, copy or generate the raw files of a data set.

The **key** of a raw artifact is its recipe, the ``[source]`` settings: two mirrors, or a folder with files
fetched by hand, are other ways to the same recipe, so whatever comes later finds the artifact under one
name. The **digest** covers the content: when the files of a recipe change, everything made from the old
ones is stale and says so.

``SHA256SUMS`` lists every file that is complete. It outlives a kill and a damaged manifest: a file that
still has its sum is not fetched again, and one that is fetched again must have it. ``--force`` forgets it.
"""

import os
import re
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
from genrec_cli.sources import catalog
from genrec_cli.sources.base import RemoteFile, Source
from genrec_cli.sources.fetch import Patience, damage, fetch

VERSION = 1
SUMS = "SHA256SUMS"


def plan(dataset: str | None, given: Mapping[str, Any]) -> Plan:
    """What to make for a data set of the catalog, with the settings of ``[source]`` given besides.

    A data set of another name needs ``source.name``: a second synthetic shop, for example.
    """
    fixed: Mapping[str, Any] = {}
    if not (dataset and dataset not in catalog.DATASETS and given.get("name")):
        fixed = catalog.settings(dataset)
    _check_name(dataset)
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise UsageError(
                f"The data set '{dataset}' has source.{key} = '{value}', not '{given[key]}'.",
                hint="Choose another --dataset, or leave this setting out",
            )
    values = {**given, **fixed}
    name = str(values["name"])
    config = validate(registry.load("source", name).Config, "source", values)
    made = Plan(str(dataset), "raw", name, VERSION, {"source": config.model_dump(mode="json")})
    source_of(made)  # settings that do not fit each other show here, not after work has begun
    return made


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
        from_dir: folder with the files already at hand; they are linked or copied, and nothing is fetched.
        urls: addresses in place of the catalog's, each of one file or of a folder that holds them.
        force: fetch every file again and accept what the address serves now.

    Raises:
        UsageError: the two do not fit each other or the source.
        InputError: a file is missing in ``from_dir``.
        DownloadError: a file cannot be had or is damaged.
    """
    source = source_of(plan)
    files = source.files()
    if (from_dir or urls) and not files:
        raise UsageError(
            f"'{plan.dataset}' is generated: there is nothing to fetch.",
            hint="Leave out --from-dir and --url",
        )
    if from_dir and urls:
        raise UsageError("--from-dir and --url are two ways to get the same files.", hint="Choose one")
    if not files:
        return _generate(ws, plan, source, force)
    files = _redirected(files, urls)
    at_hand = _at_hand(from_dir, files) if from_dir else {}
    with ws.build(plan, resumable=True) as draft:
        sums = {} if force or from_dir else _read_sums(draft.path)
        origin = {}
        for file in files:
            final = draft.path / file.name
            if from_dir:
                _place(at_hand[file.name], final)
                origin[file.name] = "--from-dir"
            else:
                origin[file.name] = _fetch(file, draft.path, sums.get(file.name), plan, patience, force)
            sums[file.name] = sha256_file(final)
            _write_sums(draft.path, sums)
            console.say(f"{file.name}: {final.stat().st_size:,} bytes from {origin[file.name]}")
        for leftover in [
            *draft.path.glob("*.part"),
            *draft.path.glob("*.part.json"),
            *draft.path.glob(".*.tmp"),
        ]:
            leftover.unlink()
        draft.result["origin"] = origin
        draft.result["bytes"] = sum((draft.path / file.name).stat().st_size for file in files)
    return _finished(ws, plan)


def source_of(plan: Plan) -> Source:
    """The source of a plan, built from its settings."""
    settings = plan.config["source"]
    kind = registry.load("source", plan.label)
    source: Source = kind(validate(kind.Config, "source", settings))
    return source


def changed(ws: Workspace, plan: Plan, from_dir: Path) -> bool:
    """Whether a folder holds other files than the finished artifact, which is then to be made again."""
    done = ws.done(plan)
    if done is None:
        return False
    recorded = done.manifest["files"]
    for file in source_of(plan).files():
        path = from_dir / file.name
        if path.is_file() and (file.name not in recorded or recorded[file.name]["sha256"] != sha256_file(path)):
            console.warn(f"{path} is not the {file.name} that {done.path.name} holds; it is made again.")
            return True
    return False


def _generate(ws: Workspace, plan: Plan, source: Source, force: bool) -> Artifact:
    with ws.build(plan, force=force) as draft, console.progress(total=1.0, desc=plan.label) as bar:
        source.generate(draft.path, lambda done: bar.update(done - bar.n))
        if not any(draft.path.iterdir()):
            raise UsageError(
                f"The source '{plan.label}' has nothing to download: its files are yours.",
                hint="genrec preprocess --help    shows how to give them",
            )
        draft.result["origin"] = "generated"
        draft.result["bytes"] = sum(path.stat().st_size for path in draft.path.rglob("*") if path.is_file())
    return _finished(ws, plan)


def _fetch(
    file: RemoteFile, folder: Path, recorded: str | None, plan: Plan, patience: Patience | None, force: bool
) -> str:
    """Fetch a file unless it is there already, whole and unchanged. Returns where it is from."""
    final = folder / file.name
    expected = file.sha256 or recorded
    if recorded and recorded == expected and final.is_file() and sha256_file(final) == expected:
        return "an earlier call"
    if force:
        for stale in folder.glob(f"{file.name}.part*"):
            stale.unlink()
    way_out = "Run it again to go on; or fetch the files by hand into a folder and give that: "
    way_out += f"genrec download --dataset {plan.dataset} --from-dir FOLDER"
    if recorded and file.sha256 is None:
        way_out += "; --force accepts a file that is another one than recorded"
    return fetch(file._replace(sha256=expected), folder, patience=patience, way_out=way_out)


def _at_hand(folder: Path, files: Sequence[RemoteFile]) -> dict[str, Path]:
    """The files in a user's folder, each present and whole, before anything is touched."""
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


def _place(path: Path, final: Path) -> None:
    """Link a file to its place or, where that cannot be, copy it; its name comes last."""
    part = final.with_name(f"{final.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:  # another disk, or a file system or user without links
        try:
            shutil.copyfile(path, part)
        except OSError as error:
            raise DownloadError(f"{path} cannot be copied to {final}: {error.strerror or error}.") from None
    final.unlink(missing_ok=True)  # renaming a link onto a link of the same file would do nothing
    part.replace(final)


def _redirected(files: Sequence[RemoteFile], urls: Sequence[str]) -> list[RemoteFile]:
    """The files with the addresses of ``--url``, where one is given for them, in place of the catalog's."""
    names = [file.name for file in files]
    given: dict[str, list[str]] = {name: [] for name in names}
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or " " in url:
            raise UsageError(
                f"--url {url} is not an address that starts with http:// or https://.",
                hint="For files on this machine: --from-dir DIR",
            )
        last = parts.path.rpartition("/")[2]
        if last in names:
            given[last].append(url)
        elif last.endswith(".gz"):
            raise UsageError(
                f"--url {url} is none of the files {', '.join(names)}.", hint="Give the file or its folder"
            )
        else:
            for name in names:
                given[name].append(parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl())
    return [file._replace(urls=tuple(given[file.name]) or file.urls) for file in files]


def _read_sums(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of the files that were complete once."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    rows = (line.partition("  ") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {name: digest for digest, _, name in rows}


def _write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    write_atomically(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())


def _check_name(dataset: str | None) -> None:
    """A data set is a folder under the root, and stays there."""
    if dataset and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", dataset):
        raise UsageError(
            f"'{dataset}' is no name for a data set.", hint="It becomes a folder: letters, digits, - and _"
        )


def _finished(ws: Workspace, plan: Plan) -> Artifact:
    return ws.made(plan)
