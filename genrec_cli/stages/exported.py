"""An exported run: recommending from a folder of ``export``, without artifacts.

The folder may come from anywhere, so its hashes, settings and tables are checked before use.
"""

import json
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from genrec_cli.artifacts import MANIFEST, Artifact, Workspace
from genrec_cli.config import MAX_FILE_BYTES, validate
from genrec_cli.data import codes_table
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories
from genrec_cli.data.vectors import FILE as VECTORS
from genrec_cli.errors import DataError, GenrecError, InputError, UsageError
from genrec_cli.files import sha256_file
from genrec_cli.models.base import Need
from genrec_cli.stages.export import CONFIG, WEIGHTS, ExportConfig, from_hub
from genrec_cli.stages.onnx import FILE as ONNX
from genrec_cli.stages.trained import Run

HUB = "hf:"
TABLES = ("items.parquet", "attributes.parquet", "users.parquet")


def export_folder(ws: Workspace, selector: str | None) -> Path | None:
    """The folder of an exported run that ``--run`` names (``hf:ORG/NAME``: downloaded); None for a run of the root.

    Raises InputError if it is no such folder and there is nothing under the root, so that it cannot be a run either.
    """
    if selector is None:
        return None
    if selector.startswith(HUB):
        return from_hub(selector.removeprefix(HUB))
    folder = Path(selector)
    if (folder / CONFIG).is_file() and not (folder / MANIFEST).exists():
        return folder
    if not (ws.datasets() or (folder / MANIFEST).exists()):
        message = f"'{selector}' is not the folder of an export, and there are no runs under {ws.root}."
        raise InputError(message, hint="Give the folder that genrec export wrote, or --root FOLDER with the artifacts")
    return None


def is_export_of(folder: Path, run: Artifact, *, onnx: bool = False) -> bool:
    """Whether a folder is an export of this run, with unchanged files, and with the ONNX file if that is asked for."""
    try:
        stored = read_export(folder)
    except DataError:
        return False
    return stored.digest == run.digest and (not onnx or ONNX in stored.files)


class ExportedRun(Run):
    """The run in a folder.

    Raises:
        DataError: a file is missing, changed or damaged, or they do not fit each other.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.stored = folder, read_export(folder)
        settings = {"model": self.stored.model, "train": {"max_length": self.stored.max_length}}
        manifest = {"config": settings | {"search": self.stored.search}, "inputs": {}, "dataset": self.stored.dataset}
        try:
            super().__init__(Workspace(folder), Artifact(folder, manifest), device)
        except KeyError:
            raise DataError(f"{folder / CONFIG} names no model.", hint="Export the run again") from None
        self.name = self.stored.run

    @cached_property
    def inputs(self) -> dict[str, Artifact]:
        codes = {"config": {"tokenizer": {"shared": self.stored.shared}}, "inputs": {}}
        files = {"codes": codes_table.FILE, "vectors": VECTORS}
        found = {kind: Artifact(self.folder, codes) for kind, name in files.items() if name in self.stored.files}
        return {"data": self.artifact} | found

    @cached_property
    def parts(self) -> list[Run]:
        names = sorted(name for name in self.stored.files if "/" in name)
        parts: list[Run] = [ExportedRun((self.folder / name).parent, self.device) for name in names]
        if wrong := [part.name for part in parts if part.names.item != self.names.item]:
            raise DataError(f"{self.folder}: the part {wrong[0]} has other items.", hint="Export the run again")
        return parts

    @property
    def needs(self) -> frozenset[Need]:
        timed = any("times" in part.needs for part in self.parts)
        return super().needs.union({"times"} if timed else ())

    @cached_property
    def vectors(self) -> np.ndarray:
        if "vectors" not in self.inputs:
            raise UsageError(f"{self.folder} holds no vectors.", hint="Leave --diversity out")
        return super().vectors

    @cached_property
    def histories(self) -> Histories:
        """Of no user."""
        return Histories.of_unknown_users([])

    @cached_property
    def catalog(self) -> Catalog:
        try:
            return replace(super().catalog, users=self.stored.users)
        except KeyError as error:
            raise DataError(f"{self.folder} lacks the {error} of its model.", hint="Export the run again") from None


def read_export(folder: Path) -> ExportConfig:
    """The checked configuration of a folder; all its files are there and have their hashes."""
    path = folder / CONFIG
    hint = "Export the run again: genrec export RUN --to FOLDER"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no object")
        config = validate(ExportConfig, CONFIG, values)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is no configuration of an exported run: {error}.", hint=hint) from None
    except GenrecError as error:
        raise DataError(f"{path} is no configuration of an exported run: {error.message}", hint=hint) from None
    weights = WEIGHTS[config.model.get("name") == "blend"]
    if missing := [name for name in (weights, *TABLES) if name not in config.files]:
        raise DataError(f"{path} lists no {missing[0]}.", hint=hint)
    for name, expected in config.files.items():
        file = folder / name
        if not re.fullmatch(r"(part\d\d/)?[\w.-]+", name) or not file.is_file():
            raise DataError(f"{folder} lacks the file '{name}'.", hint=hint)
        if sha256_file(file) != expected:
            raise DataError(f"{file} was changed after the export: its SHA-256 is another.", hint=hint)
    return config
