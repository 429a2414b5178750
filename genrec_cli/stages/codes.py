"""The codes artifact: the codes of all items, made by a tokenizer from what it needs.

``codes/<tokenizer><K>x<V>-<encoder>-<key>`` holds ``codes.parquet`` (``data/codes_table.py``), ``quality.json`` and
what the tokenizer saved (``codebook.safetensors``). Without vectors the name has no encoder.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.interactions import training_matrix
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.vectors import read_vectors
from genrec_cli.encoders.base import Encoder
from genrec_cli.errors import UsageError
from genrec_cli.stages.quality_table import show_quality
from genrec_cli.stages.vectors import Stage
from genrec_cli.tokenizers.base import ARGUMENTS, Tokenizer
from genrec_cli.tokenizers.codebook import FILE as CODEBOOK
from genrec_cli.tokenizers.collisions import resolve
from genrec_cli.tokenizers.kmeans import check_codewords, one_thread
from genrec_cli.tokenizers.quality import collisions, measure

VERSION = 2
SAME_VECTOR = 0.01
"""Two vectors count as equal up to this fraction of their length, because devices and batches round differently."""


def needs(values: Mapping[str, Any]) -> frozenset[str]:
    """What the tokenizer of ``[tokenizer]`` reads.

    Raises:
        UsageError: it declares a word that is not in ``tokenizers.base.ARGUMENTS``.
    """
    name = values.get("name", "opq")
    declared = frozenset(registry.load("tokenizer", name).needs)
    if unknown := declared - ARGUMENTS.keys():
        raise UsageError(f"The tokenizer '{name}' needs '{min(unknown)}'; there is: {', '.join(ARGUMENTS)}.")
    return declared


def tokenizer_config(values: Mapping[str, Any], data: Artifact) -> Section:
    """The validated ``[tokenizer]``. V is checked against the training items before any slow work."""
    kind = registry.load("tokenizer", values.get("name", "opq"))
    config = validate(kind.Config, "tokenizer", values)
    if "vectors" in needs(values):
        check_codewords(config.codewords, int(np.count_nonzero(_items(data, "train_count"))))
    return config


def frozen_config(
    ws: Workspace, codebook: Artifact, given: Mapping[str, Any], encoder: Encoder, data: Artifact
) -> Section:
    """The ``[tokenizer]`` of codes whose codebook is used again, if that is possible.

    Raises:
        UsageError: options that contradict it, another encoder, or no codebook.
    """
    recorded = codebook.config["tokenizer"]
    if not (codebook.path / CODEBOOK).is_file():
        raise UsageError(
            f"{codebook.path.name} holds {recorded['name']} codes: there is no codebook to use again.",
            hint="Leave --codebook-from out",
        )
    for key, value in given.items():
        if key != "collisions" and recorded.get(key) != value:
            raise UsageError(
                f"tokenizer.{key} is {value!r}, but the codebook of {codebook.path.name} has {recorded.get(key)!r}.",
                hint="Leave the option out: --codebook-from fixes it",
            )
    model = ws.input(codebook, "vectors").manifest["external"].get("encoder/model")
    same = codebook.config["encoder"] == encoder.config.model_dump(mode="json")
    if not same or model != encoder.external().get("encoder/model"):
        raise UsageError(
            f"The codebook of {codebook.path.name} was fitted on vectors of another encoder: "
            f"{codebook.config['encoder']}, not {encoder.config.model_dump(mode='json')}.",
            hint="Give the same --encoder, or leave --codebook-from out",
        )
    if not encoder.frozen and codebook.manifest["inputs"]["data"]["key"] != data.key:
        raise UsageError(
            f"{encoder.label} vectors are fitted on one data artifact, so a codebook fits no other.",
            hint="Use a sentence-transformers model or your own vectors for both",
        )
    settings = {**recorded, "collisions": given.get("collisions", recorded["collisions"])}
    return validate(registry.load("tokenizer", recorded["name"]).Config, "tokenizer", settings)


def codes_stage(
    ws: Workspace,
    data: Artifact,
    config: Section,
    vectors: Artifact | None = None,
    codebook: Artifact | None = None,
    own: Tokenizer | None = None,
) -> Stage:
    """Codes of all items.

    Args:
        vectors: for tokenizers that need vectors; for others only the quality is measured against them.
        codebook: codes whose PCA and codebooks are used as they are.
        own: in place of a registered tokenizer the codes of a file (``own_codes.py``), which are not fitted.
    """
    values = config.model_dump(mode="json")
    policy = values.get("collisions", "none")
    encoder = vectors and vectors.path.name.rpartition("-")[0]
    size = f"{values['codebooks']}x{values['codewords']}"
    words = [values["name"] + size, policy != "none" and policy, encoder, codebook and "frozen"]
    label = "-".join(word for word in words if word)
    inputs = {"data": data, "vectors": vectors, "codebook": codebook}
    plan = Plan(
        dataset=data.dataset,
        kind="codes",
        label=label,
        version=VERSION,
        config={"tokenizer": values} | ({"encoder": vectors.config["encoder"]} if vectors else {}),
        inputs={name: artifact for name, artifact in inputs.items() if artifact},
        external=own.external() if own else {},
    )

    def work() -> Artifact:
        vec_ID = read_vectors(vectors.path) if vectors else None
        if codebook:
            _check_same_vectors(ws, codebook, data, vectors, vec_ID)
        train_I = _items(data, "train_count").to_numpy() > 0
        wanted = needs(values) if own is None else frozenset()
        given = {"vectors": vec_ID}
        if "titles" in wanted:
            given["titles"] = _items(data, "title").to_pylist()
        if "interactions" in wanted:
            given["interactions"] = training_matrix(data.path, len(train_I))
        needed = {ARGUMENTS[need]: given[need] for need in wanted}
        with ws.build(plan) as draft:
            kind = None if own else registry.load("tokenizer", values["name"])
            tokenizer = own or (kind.load(codebook.path) if codebook else kind(config))
            if not own and not codebook:
                console.say(f"making {label} from {np.count_nonzero(train_I):,} training items")
                tokenizer.fit(train_I=train_I, **needed)
            table, quality = _codes_and_quality(tokenizer, values, needed, vec_ID)
            table.write(draft.path)
            tokenizer.save(draft.path)
            (draft.path / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
            draft.result = {name: value for name, value in quality.items() if name != "digits"}
        show_quality(quality)
        return ws.verified(ws.made(plan))

    return plan, work


def _codes_and_quality(
    tokenizer: Any, values: Mapping[str, Any], needed: Mapping[str, Any], vec_ID: np.ndarray | None
) -> tuple[CodesTable, dict[str, Any]]:
    """The table and ``quality.json``; on one thread, so that no bit depends on the number of cores.

    A digit that only counts items of equal codes decides which items collide, and is left out of all other stats.
    """
    policy, seed = values.get("collisions", "none"), values.get("seed", 0)
    found_IK, codewords = tokenizer.codes(**needed), values["codewords"]
    if policy == "reassign" and not hasattr(tokenizer, "nearest"):
        hint = "--collisions digit    numbers items with equal codes"
        raise UsageError(f"The tokenizer '{values['name']}' cannot move items to other codes.", hint=hint)
    with one_thread():
        codes_IK, facts = resolve(policy, tokenizer, found_IK if vec_ID is None else vec_ID, found_IK, codewords)
        own_IK = codes_IK[:, : found_IK.shape[1]]
        space = {}
        if "vec_ID" in needed:
            space = {"reduced_IP": tokenizer.reduced(vec_ID), "decoded_IP": tokenizer.decode(own_IK)}
        quality = measure(own_IK, codewords, seed=seed, vec_ID=vec_ID, **space)
        quality |= {"codebooks": codes_IK.shape[1], **collisions(codes_IK), **facts}
    if hasattr(tokenizer, "facts"):
        quality |= tokenizer.facts(**needed)
    return CodesTable(codes_IK, codewords, values.get("shared", False)), quality


def _items(data: Artifact, column: str) -> Any:
    """A column of ``items.parquet``."""
    return read_table(data.path / "items.parquet", ITEMS, [column])[column]


def _check_same_vectors(
    ws: Workspace, codebook: Artifact, data: Artifact, vectors: Artifact, vec_ID: np.ndarray
) -> None:
    """Check that an item with the same raw id and text has the vector that it had for the codebook.

    Settings cannot tell: own vectors have none, and the name of a model does not say its commit.

    Raises:
        UsageError: vectors differ, or another commit of the model made them.
    """
    old = ws.input(codebook, "vectors")
    commit, before = (artifact.result.get("revision") for artifact in (vectors, old))
    other = f"The codebook of {codebook.path.name} was fitted on vectors of another encoder: "
    if commit and before and commit != before:
        hint = f"--set encoder.revision={before} for both, or leave --codebook-from out"
        raise UsageError(f"{other}commit {before}, not {commit}.", hint=hint)
    now, then = (
        list(zip(_items(artifact, "raw_id").to_pylist(), _items(artifact, "text").to_pylist(), strict=True))
        for artifact in (data, ws.input(codebook, "data"))
    )
    row_of = {item: row for row, item in enumerate(then)}
    pairs = [(row, row_of[item]) for row, item in enumerate(now) if item in row_of]
    if not pairs:
        console.say(f"no item of {codebook.path.name} is in these data, so the vectors cannot be compared")
        return
    here_N, there_N = np.array(pairs).T
    a_ND, b_ND = vec_ID[here_N], read_vectors(old.path)[there_N]
    if a_ND.shape != b_ND.shape:
        raise UsageError(f"{other}{b_ND.shape[1]} wide, not {a_ND.shape[1]}.", hint="Give the same --encoder")
    length_N = np.linalg.norm(b_ND, axis=1)
    differ_M = here_N[np.linalg.norm(a_ND - b_ND, axis=1) > SAME_VECTOR * length_N]
    if len(differ_M):
        names = ", ".join(now[i][0] for i in differ_M[:5]) + (", ..." if len(differ_M) > 5 else "")
        raise UsageError(
            f"{other}{len(differ_M):,} of {len(pairs):,} items with the same raw id and text differ: {names}.",
            hint="Give the same --encoder (own vectors: made in the same way), or leave --codebook-from out",
        )
