"""export: a run -> a folder with all that recommending needs, in the layout of a Hugging Face model.

The folder holds ``model.safetensors``, ``config.json``, ``items.parquet`` (raw ids and titles), ``attributes.parquet``,
the codes and vectors that the model reads, and a card. It holds no users and no histories. A blend has ``blend.json``
in place of weights, and a folder ``partNN`` per part, which is an export itself.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from genrec_cli import __version__, console
from genrec_cli.config import Natural, Section
from genrec_cli.data import codes_table, vectors
from genrec_cli.data.schema import ATTRIBUTES, ITEMS, USERS, read_table, write_table
from genrec_cli.engine.checkpoint import BEST
from genrec_cli.errors import ConfigError, DownloadError, InputError, UsageError
from genrec_cli.files import sha256_file
from genrec_cli.models.blend import Blend
from genrec_cli.stages import blended
from genrec_cli.stages.trained import Run

CONFIG, CARD = "config.json", "README.md"
FORMAT = "genrec-1"
WEIGHTS = (BEST, blended.FILE)
"""The file that the model is loaded from: of a trained run, and of a blend."""


class ExportConfig(Section):
    """``config.json`` of an export."""

    format: Literal["genrec-1"]
    genrec: str
    """Version of the package that wrote it."""
    dataset: str
    run: str
    digest: str
    """Digest of the run."""
    model: dict[str, Any]
    """Name and settings."""
    search: dict[str, Any]
    max_length: int = Field(ge=1)
    """Items that the model reads per history."""
    users: Natural
    """Users of the training data."""
    shared: bool
    """Whether a code has the same meaning in every digit."""
    files: dict[str, str]
    """Name -> SHA-256; of a part its ``config.json``, which has the hashes of its files."""


def export(trained: Run, folder: Path, *, onnx: bool = False) -> Path:
    """Write the folder of a run. It appears in one rename, complete.

    Raises:
        UsageError: the folder exists and is not empty, or the model has no ONNX form.
    """
    if "times" in trained.needs:
        console.warn(f"{trained.name} reads times, which the histories of --history do not have: it cannot recommend")
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty.", hint="Give a new folder with --to, or delete this one")
    making = folder.with_name(f".{folder.name}.making")
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        _write(trained, making, onnx=onnx)
        making.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}.", hint="Choose another --to FOLDER") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _write(trained: Run, folder: Path, *, onnx: bool = False) -> None:
    """All files of the folder, which exists."""
    _write_tables(trained, folder)
    for number, part in enumerate(trained.parts):
        (made := folder / f"part{number:02}").mkdir()
        _write(part, made)
    if onnx:
        from genrec_cli.stages.onnx import write_onnx

        write_onnx(trained, folder)
    config = config_of(trained, folder)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card(trained, config), encoding="utf-8")


def _write_tables(trained: Run, folder: Path) -> None:
    """The weights and the tables."""
    data, needs = trained.data.path, trained.needs
    sources = {WEIGHTS[issubclass(trained.kind, Blend)]: trained.artifact.path}
    if trained.codes and "codes" in needs:
        sources[codes_table.FILE] = trained.codes.path
    if "vectors" in needs:
        sources[vectors.FILE] = trained.inputs["vectors"].path
    for name, source in sources.items():
        shutil.copyfile(source / name, folder / name)
    items = read_table(data / "items.parquet", ITEMS)
    text = items.schema.get_field_index("text")  # nothing reads it after the encoder
    write_table(items.set_column(text, "text", pa.nulls(len(items), pa.string())), folder / "items.parquet", ITEMS)
    write_table(read_table(data / "attributes.parquet", ATTRIBUTES), folder / "attributes.parquet", ATTRIBUTES)
    write_table(USERS.empty_table(), folder / "users.parquet", USERS)


def config_of(trained: Run, folder: Path) -> ExportConfig:
    """The configuration of a written folder."""
    config, search = trained.artifact.config, trained.settings.model_dump(mode="json")
    return ExportConfig(
        format=FORMAT,
        genrec=__version__,
        dataset=trained.artifact.dataset,
        run=trained.name,
        digest=trained.artifact.digest,
        model=dict(config["model"]),
        search={"name": trained.search_name} | search,
        max_length=trained.max_length,
        users=trained.catalog.users,
        shared=trained.catalog.shared,
        files={
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted([*folder.iterdir(), *folder.glob(f"part*/{CONFIG}")])
            if path.is_file()
        },
    )


def card(trained: Run, config: ExportConfig) -> str:
    """The card of the folder: what it is, and how to use it."""
    result = json.dumps(dict(trained.artifact.result.get("valid", {})), indent=2)
    name = config.model["name"]
    return (
        f"---\nlibrary_name: genrec-cli\ntags: [recommendation, {name}]\n"
        f"---\n# {name} on {config.dataset}\n\n"
        f"A recommender for {trained.catalog.items:,} items, the run `{config.run}` of genrec {config.genrec}.\n"
        "The folder holds weights, codes, titles and settings. It holds no users and no histories.\n\n"
        "```sh\npip install genrec-cli\n"
        "genrec recommend --run FOLDER --history histories.csv\n```\n\n"
        "`histories.csv` has the columns user and item, in order of time; items are raw ids of `items.parquet`.\n\n"
        f"Validation metrics of the training:\n\n```json\n{result}\n```\n"
    )


def push(folder: Path, name: str) -> str:
    """Upload an export to the Hugging Face hub as the model ORG/NAME; returns its address. A new one is private.

    Raises:
        ConfigError: huggingface_hub is not installed.
        DownloadError: the hub refused, or cannot be reached.
    """
    api = _hub().HfApi()
    try:
        api.create_repo(name, exist_ok=True, private=True)
        return str(api.upload_folder(folder_path=str(folder), repo_id=name, commit_message=f"genrec {__version__}"))
    except _hub_errors() as error:
        hint = f"{folder} is complete: the same command uploads it; hf auth login    if the hub asks for a login"
        raise DownloadError(f"{name} could not be uploaded: {_first_line(error)}.", hint=hint) from None


def from_hub(name: str) -> Path:
    """The folder of the model ORG/NAME or ORG/NAME@REVISION of the hub, downloaded into the cache of huggingface_hub.

    Raises:
        ConfigError: huggingface_hub is not installed.
        DownloadError: there is no such model, or it cannot be reached.
    """
    repository, _, revision = name.partition("@")
    try:
        return Path(_hub().snapshot_download(repository, revision=revision or None))
    except _hub_errors() as error:
        hint = "For a private model: hf auth login"
        raise DownloadError(f"{name} could not be downloaded: {_first_line(error)}.", hint=hint) from None


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError("huggingface_hub is not installed.", hint="pip install huggingface-hub") from None
    return huggingface_hub


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises: HTTP errors, names that it does not allow, and failed connections. The classes above
    its HTTP error are those of the HTTP package that it uses, which are no OSError in newer versions."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    return *HfHubHTTPError.__bases__, HFValidationError, LocalEntryNotFoundError, OSError


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
