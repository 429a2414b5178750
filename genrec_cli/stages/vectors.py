"""The vectors artifact: item texts to vectors.

``vectors/<encoder>-<key>`` holds ``vectors.safetensors`` with ``vectors`` (float32, I x D). Row i is item i + 1.
They are a separate artifact, because encoding is slow and all tokenizers use the same vectors.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import did_you_mean, validate
from genrec_cli.data.interactions import training_matrix
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.vectors import FILE
from genrec_cli.encoders.base import Batched, Encoder
from genrec_cli.encoders.item_rows import SUFFIXES, exists
from genrec_cli.process_group import current_group
from genrec_cli.stages.encode import encode

VERSION = 1
NAMING = frozenset({"name", "model", "path"})
"""Settings of ``[encoder]`` that name an encoder."""
Stage = tuple[Plan, Callable[[], Artifact | None]]
"""A plan, and the function that makes its artifact; it returns None outside of the main process."""


def encoder_values(given: Mapping[str, Any], option: str | None, default: str) -> dict[str, Any]:
    """``[encoder]`` with the option ``--encoder``: a registered encoder, a file of vectors, or a model or its folder.

    The option has precedence over files and ``--set``. The default applies if nothing names an encoder.
    """
    if not option and NAMING & given.keys():
        return dict(given)
    name = option or default
    if name in registry.names("encoder"):
        chosen = {"name": name}
    elif Path(name).suffix in SUFFIXES:
        chosen = {"name": "vectors", "path": name}
    else:
        chosen = {"name": "sentence-transformers", "model": name}
        near = did_you_mean(name, registry.names("encoder"))
        if near and "/" not in name and not exists(Path(name), folder=True):
            console.say(f"'{name}' is read as a model of sentence-transformers.{near}")
    return {**{key: value for key, value in given.items() if key not in NAMING}, **chosen}


def make_encoder(values: Mapping[str, Any]) -> Encoder:
    """The encoder that ``[encoder]`` describes."""
    kind = registry.load("encoder", values.get("name", "sentence-transformers"))
    return kind(validate(kind.Config, "encoder", values))


def vectors_stage(ws: Workspace, data: Artifact, encoder: Encoder) -> Stage:
    """Item texts to vectors."""
    plan = Plan(
        dataset=data.dataset,
        kind="vectors",
        label=encoder.label,
        version=VERSION,
        config={"encoder": encoder.config.model_dump(mode="json")},
        inputs={"data": data},
        external={**encoder.external(), **registry.code_of(type(encoder))},
    )

    def work() -> Artifact | None:
        from safetensors.numpy import save_file

        items = read_table(data.path / "items.parquet", ITEMS, ["raw_id", "text"])
        texts = [text or "" for text in items["text"].to_pylist()]
        raw_ids = items["raw_id"].to_pylist()
        if isinstance(encoder, Batched):
            encoder.open()  # before anything is written, so that an error creates no unfinished artifact
        if not current_group().main:
            current_group().barrier()
            encode(encoder, texts, raw_ids, plan, ws.path(plan))
            return None
        reads = "interactions" in getattr(encoder, "needs", ())
        needed = {"interactions_UI": training_matrix(data.path, len(texts))} if reads else {}
        with ws.build(plan, resumable=isinstance(encoder, Batched)) as draft:
            current_group().barrier()
            vec_ID = encode(encoder, texts, raw_ids, plan, draft.scratch, **needed)
            zero = int(np.count_nonzero(~vec_ID.any(axis=1)))
            if zero:
                console.say(f"{zero:,} of {len(texts):,} items have no usable text: their vectors are zero")
            save_file({"vectors": np.ascontiguousarray(vec_ID)}, draft.path / FILE)
            draft.result = {"items": len(vec_ID), "width": vec_ID.shape[1], "zero_vectors": zero, **encoder.facts}
        return ws.verified(ws.made(plan))

    return plan, work
