"""Sentence encoders of sentence-transformers from a folder, the cache of the Hugging Face hub, or the hub.

A model in a folder or in the cache is loaded without network access. Before a download the hub gets one request with a
short timeout, because the library retries for minutes.
"""

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli import console
from genrec_cli.config import Section
from genrec_cli.encoders.item_rows import exists, user_path
from genrec_cli.errors import DataError, DownloadError, UsageError
from genrec_cli.files import sha256_file

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "sentence-transformers/sentence-t5-base"
PROBE_SECONDS = 10.0
MAX_LABEL = 80
"""Longest label made from the name of a model: file names have at most 255 bytes."""
OFFLINE = """genrec tokenize --encoder lsa    needs no model;  --encoder FOLDER    reads a model on disk;  \
--encoder FILE.npy    reads your vectors"""


class SentenceConfig(Section):
    """``[encoder]`` of sentence-transformers."""

    name: Literal["sentence-transformers"] = "sentence-transformers"
    model: str = DEFAULT_MODEL
    """Name on the Hugging Face hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the model's main branch if not given."""
    max_length: int | None = Field(None, ge=1)
    """Largest number of tokens per text; the model's limit if not given."""
    normalize: bool = False
    """Scale every vector to length 1. Many models do so already."""
    batch_size: int = Field(64, ge=1, exclude=True)
    """Texts per batch. Not part of the key."""
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", exclude=True)
    """Device of the model: auto, cpu, mps, cuda or cuda:N. Not part of the key."""


class SentenceEncoder:
    """Any model that sentence-transformers can load."""

    Config = SentenceConfig
    frozen: ClassVar[bool] = True

    def __init__(self, config: SentenceConfig) -> None:
        path = user_path(config.model)
        self.folder = path if exists(path, folder=True) else None
        if self.folder is None and (path.is_absolute() or config.model.startswith((".", "~"))):
            raise UsageError(f"There is no model folder {config.model}.", hint=OFFLINE)
        self.facts: dict[str, object] = {}
        name = config.model
        if self.folder is None and "/" not in name:
            name = f"sentence-transformers/{name}"  # the library does the same
        self.label = short_name(name)
        # The hash of a folder is in the key, so its name need not be.
        self.config = config.model_copy(update={"model": "folder" if self.folder else name})
        self.batch_size = config.batch_size

    def external(self) -> Mapping[str, str]:
        """The hash of a model folder. A hub model is identified by its name and revision."""
        return {"encoder/model": sha256_folder(self.folder)} if self.folder else {}

    def open(self) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
        """A function from a batch of texts to ``vec_BD`` (float32), and D.

        Raises:
            DownloadError: the model is not on disk and cannot be downloaded.
            DataError: the folder holds no model.
            UsageError: the device does not exist.
        """
        model = self._model
        if self.config.max_length:
            model.max_seq_length = self.config.max_length

        def encode_batch(texts: Sequence[str]) -> np.ndarray:
            normalize, size = self.config.normalize, len(texts)
            return model.encode(list(texts), batch_size=size, normalize_embeddings=normalize, show_progress_bar=False)

        self.facts = {"device": model.device.type, "max_length": model.max_seq_length}
        if not self.folder:
            self.facts["revision"] = _cached_revision(self.config.model, self.config.revision)
        return encode_batch, encode_batch(["width"]).shape[1]

    @cached_property
    def _model(self) -> "SentenceTransformer":
        """The model from its folder, else from the cache, else from the hub."""
        device = None if self.config.device == "auto" else self.config.device
        _check_device(device)
        if self.folder:
            try:
                return self._open(str(self.folder), device, local=True)
            except (OSError, ValueError, KeyError) as error:
                raise DataError(f"{self.folder} holds no model that can be loaded: {_first_line(error)}") from None
        name = self.config.model
        if _cached_revision(name, self.config.revision):
            try:
                return self._open(name, device, local=True)
            except (OSError, ValueError):
                console.say(f"the cached copy of {name} is not complete; fetching the rest")
        _probe_hub(name)
        try:
            return self._open(name, device, local=False)
        except (OSError, ValueError, KeyError) as error:
            raise DownloadError(f"{name} could not be loaded: {_first_line(error)}", hint=OFFLINE) from None

    def _open(self, name: str, device: str | None, *, local: bool) -> "SentenceTransformer":
        console.say(f"loading {name}")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = SentenceTransformer(name, device=device, revision=self.config.revision, local_files_only=local)
        return model.float()  # half precision is slow on a CPU


def short_name(model: str) -> str:
    """A folder name made from the last meaningful part of a model's name or path: ``all-minilm-l6-v2``."""
    parts = [part for part in Path(model).parts if re.search(r"\w", part)] or ["model"]
    named = [p for p in parts if p not in {"model", "snapshots"} and not re.fullmatch(r"[0-9a-f]{40}", p)]
    return re.sub(r"[^a-z0-9]+", "-", (named or parts)[-1].lower())[:MAX_LABEL].strip("-") or "model"


def sha256_folder(folder: Path) -> str:
    """Hex SHA-256 over the names and contents of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cached_revision(name: str, revision: str | None) -> str | None:
    """The commit of a hub model in the local cache, or None if it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        raise UsageError(f"'{name}' is not an encoder, a folder or the name of a model.", hint=OFFLINE) from None
    return Path(path).parent.name if isinstance(path, str) else None


def _probe_hub(name: str) -> None:
    """Raises DownloadError within seconds if the hub cannot be reached or does not have the model."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        what = f"The model '{name}' is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids fetching it."
        raise DownloadError(what, hint=OFFLINE)
    token, hub = get_token(), constants.ENDPOINT
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(f"{hub}/api/models/{name}", headers=headers)
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        absent = error.code in (401, 403, 404)
        why = "does not exist or is private" if absent else f"was answered with HTTP status {error.code}"
        raise DownloadError(f"The model '{name}' {why} at {hub}.", hint=OFFLINE) from None
    except OSError as error:
        why = str(getattr(error, "reason", None) or error)
        what = f"The model '{name}' is not on this machine, and {hub} cannot be reached: {why}."
        raise DownloadError(what, hint=OFFLINE) from None


def _check_device(device: str | None) -> None:
    import torch

    if device and device.startswith("cuda") and not torch.cuda.is_available():
        what = f"encoder.device is '{device}', but torch sees no CUDA device."
        raise UsageError(what, hint="--set encoder.device=cpu")
