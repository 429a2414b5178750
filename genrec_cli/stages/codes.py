"""The codes artifact: the codes of all items, made by a tokenizer.

``codes/<tokenizer><K>x<V>-<encoder>-<key>`` holds ``codes.parquet`` (``data/codes_table.py``), ``quality.json`` and
the tokenizer's file (``codebook.safetensors``). Without vectors the name has no encoder.
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
from genrec_cli.stages.behaviour import consecutive_pairs, joined_vectors
from genrec_cli.stages.own_codes import OwnCodes
from genrec_cli.stages.quality_table import show_quality
from genrec_cli.stages.vectors import Stage
from genrec_cli.tokenizers.base import ARGUMENTS
from genrec_cli.tokenizers.behaviour import BehaviourConfig
from genrec_cli.tokenizers.codebook import FILE as CODEBOOK
from genrec_cli.tokenizers.collisions import resolve
from genrec_cli.tokenizers.kmeans import check_codewords, one_thread
from genrec_cli.tokenizers.predictability import Pairs, gains
from genrec_cli.tokenizers.quality import collisions, measure

VERSION = 3
SAME_VECTOR = 0.01
"""Vectors are equal up to this fraction of their length, because devices and batches round differently."""

OWN_FILE, OWN_FOLDER = "FILE.parquet", "FOLDER"
"""What an error names in place of the path of your vectors or of a model's folder, as paths are not recorded."""


def needs(values: Mapping[str, Any]) -> frozenset[str]:
    """The inputs of the tokenizer; raises UsageError for one that is not in ``tokenizers.base.ARGUMENTS``."""
    name = values.get("name", "opq")
    declared = frozenset(registry.load("tokenizer", name).needs)
    if unknown := declared - ARGUMENTS.keys():
        raise UsageError(f"The tokenizer '{name}' needs '{min(unknown)}'; there is: {', '.join(ARGUMENTS)}.")
    return declared


def tokenizer_config(values: Mapping[str, Any], data: Artifact) -> Section:
    """The validated ``[tokenizer]``. V is compared with the number of training items before any slow work."""
    kind = registry.load("tokenizer", values.get("name", "opq"))
    config = validate(kind.Config, "tokenizer", values)
    if "vectors" in needs(values):
        check_codewords(config.codewords, int(np.count_nonzero(_items(data, "train_count"))))
    return config


def behaviour_config(values: Mapping[str, Any], data: Artifact, codebook: Artifact | None = None) -> BehaviourConfig:
    """The validated ``[behaviour]``, by default that of the codebook.

    Raises:
        UsageError: another behaviour than the codebook's, or a codebook that knows the users of other data.
    """
    if codebook is None:
        return validate(BehaviourConfig, "behaviour", values)
    recorded = codebook.config.get("behaviour", BehaviourConfig().model_dump())
    if wrong := [key for key, value in values.items() if recorded.get(key) != value]:
        what = f"behaviour.{wrong[0]} is not that of the codebook of {codebook.path.name}: {recorded}."
        raise UsageError(what, hint="Leave the option out: --codebook-from fixes it")
    if recorded["weight"] and codebook.manifest["inputs"]["data"]["key"] != data.key:
        what = f"{codebook.path.name} was made from the transitions of other data, so its codebook fits no other."
        raise UsageError(what, hint="Use codes of text alone (behaviour.weight=0) for new items")
    return validate(BehaviourConfig, "behaviour", recorded)


def encoder_of(codebook: Artifact) -> dict[str, Any]:
    """The ``[encoder]`` of a codebook; empty if it reads a file or a folder, whose path is not recorded."""
    recorded = dict(codebook.config.get("encoder", {}))
    return {} if _named(recorded) in (OWN_FILE, OWN_FOLDER) else recorded


def _named(recorded: Mapping[str, Any]) -> str:
    """What ``--encoder`` takes for an ``[encoder]`` as codes record it."""
    if recorded.get("model") == "folder":
        return OWN_FOLDER
    return OWN_FILE if recorded.get("name") == "vectors" else str(recorded.get("model", recorded.get("name")))


def frozen_config(
    ws: Workspace, codebook: Artifact, given: Mapping[str, Any], encoder: Encoder, data: Artifact
) -> Section:
    """The ``[tokenizer]`` of codes whose codebook is used for these data.

    Raises:
        UsageError: contradicting options, another encoder, or no codebook.
    """
    recorded = codebook.config["tokenizer"]
    if not (codebook.path / CODEBOOK).is_file():
        what = f"{codebook.path.name} holds {recorded['name']} codes: there is no codebook to use again."
        raise UsageError(what, hint="Leave --codebook-from out")
    for key, value in given.items():
        if key != "collisions" and recorded.get(key) != value:
            what = f"tokenizer.{key} is {value!r}, but the codebook of {codebook.path.name} has {recorded.get(key)!r}."
            raise UsageError(what, hint="Leave the option out: --codebook-from fixes it")
    model = ws.input(codebook, "vectors").manifest["external"].get("encoder/model")
    section = encoder.config.model_dump(mode="json")
    if codebook.config["encoder"] != section or model != encoder.external().get("encoder/model"):
        what = f"was fitted on vectors of another encoder: {codebook.config['encoder']}, not {section}."
        again = f"genrec tokenize --data {data.path.name} --codebook-from {codebook.path.name} --encoder"
        hint = f"{again} {_named(codebook.config['encoder'])}    or leave --codebook-from out"
        raise UsageError(f"The codebook of {codebook.path.name} {what}", hint=hint)
    if not encoder.frozen and codebook.manifest["inputs"]["data"]["key"] != data.key:
        what = f"{encoder.label} vectors are fitted on one data artifact, so a codebook fits no other."
        raise UsageError(what, hint="Use a sentence-transformers model or your vectors for both")
    settings = {**recorded, "collisions": given.get("collisions", recorded["collisions"])}
    return validate(registry.load("tokenizer", recorded["name"]).Config, "tokenizer", settings)


def codes_stage(
    ws: Workspace,
    data: Artifact,
    config: Section,
    vectors: Artifact | None = None,
    codebook: Artifact | None = None,
    file_codes: OwnCodes | None = None,
    behaviour: BehaviourConfig | None = None,
) -> Stage:
    """Codes of all items.

    Args:
        vectors: input of the tokenizer, or only of the quality stats.
        codebook: codes whose PCA and codebooks are used without fitting.
        behaviour: joins the vectors that the tokenizer reads with transitions, if its weight is not 0.
        file_codes: the codes of a file (``own_codes.py``) in place of a registered tokenizer.
    """
    values = config.model_dump(mode="json")
    behaviour = behaviour if behaviour and behaviour.weight else None
    if behaviour and (file_codes or "vectors" not in needs(values)):
        what = f"behaviour.weight is for tokenizers that read vectors, and '{values['name']}' reads none."
        raise UsageError(what, hint="Leave it out, or --tokenizer opq")
    policy = values.get("collisions", "none")
    tokenizer_label = f"{values['name']}{values['codebooks']}x{values['codewords']}"
    encoder_label = vectors.path.name.rpartition("-")[0] if vectors else ""
    behaviour_label = f"behaviour{behaviour.weight:g}" if behaviour else ""
    label_parts = [
        tokenizer_label,
        behaviour_label,
        policy.replace("none", ""),
        encoder_label,
        "frozen" if codebook else "",
    ]
    label = "-".join(filter(None, label_parts))
    inputs = {"data": data, "vectors": vectors, "codebook": codebook}
    plan = Plan(
        dataset=data.dataset,
        kind="codes",
        label=label,
        version=VERSION,
        config={"tokenizer": values}
        | ({"encoder": vectors.config["encoder"]} if vectors else {})
        | ({"behaviour": behaviour.model_dump(mode="json")} if behaviour else {}),
        inputs={name: artifact for name, artifact in inputs.items() if artifact},
        external=file_codes.external() if file_codes else registry.code_of(registry.load("tokenizer", values["name"])),
    )

    def work() -> Artifact:
        vec_ID = read_vectors(vectors.path) if vectors else None
        if codebook and vectors:
            _check_same_vectors(ws, codebook, data, vectors)
        train_I = _items(data, "train_count").to_numpy() > 0
        reads = frozenset() if file_codes else needs(values)
        seed, read_ID = values.get("seed", 0), vec_ID
        if behaviour and vec_ID is not None:
            read_ID = joined_vectors(data.path, vec_ID, train_I, behaviour, seed=seed)
        needed: dict[str, Any] = {ARGUMENTS["vectors"]: read_ID} if "vectors" in reads else {}
        if "titles" in reads:
            needed[ARGUMENTS["titles"]] = _items(data, "title").to_pylist()
        if "interactions" in reads:
            needed[ARGUMENTS["interactions"]] = training_matrix(data.path, len(train_I))
        with ws.build(plan) as draft:
            tokenizer: Any = file_codes
            if not file_codes:
                kind = registry.load("tokenizer", values["name"])
                tokenizer = kind.load(codebook.path) if codebook else kind(config)
            if not file_codes and not codebook:
                console.say(f"making {label} from {np.count_nonzero(train_I):,} training items")
                tokenizer.fit(train_I=train_I, **needed)
            pairs = consecutive_pairs(data.path, seed=seed)
            table, quality = _codes_and_quality(tokenizer, values, needed, vec_ID, pairs)
            table.write(draft.path)
            tokenizer.save(draft.path)
            (draft.path / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
            draft.result = {name: value for name, value in quality.items() if name != "digits"}
        show_quality(quality)
        return ws.verified(ws.made(plan))

    return plan, work


def _codes_and_quality(
    tokenizer: Any, values: Mapping[str, Any], needed: Mapping[str, Any], vec_ID: np.ndarray | None, pairs: Pairs
) -> tuple[CodesTable, dict[str, Any]]:
    """The table and ``quality.json``; ``vec_ID`` are the text vectors, which neighbours are compared with.

    On one thread, so that results do not depend on the number of cores.

    The digit of the policy ``digit`` counts for collisions only; all other stats are without it.
    """
    policy, seed = values.get("collisions", "none"), values.get("seed", 0)
    codes_IK, codewords = tokenizer.codes(**needed), values["codewords"]
    if policy == "reassign" and not hasattr(tokenizer, "nearest"):
        hint = "--collisions digit    numbers items with equal codes"
        raise UsageError(f"The tokenizer '{values['name']}' cannot move items to other codes.", hint=hint)
    digits, space = codes_IK.shape[1], {}
    with one_thread():
        read_ID = needed.get("vec_ID", codes_IK if vec_ID is None else vec_ID)
        codes_IK, facts = resolve(policy, tokenizer, read_ID, codes_IK, codewords)
        semantic_IK = codes_IK[:, :digits]
        if "vec_ID" in needed and hasattr(tokenizer, "reduced"):
            space = {"reduced_IP": tokenizer.reduced(needed["vec_ID"]), "decoded_IP": tokenizer.decode(semantic_IK)}
        quality = measure(semantic_IK, codewords, seed=seed, vec_ID=vec_ID, **space)
        gain_K = gains(semantic_IK, codewords, pairs, seed=seed)
        for digit, gain in zip(quality["digits"], gain_K, strict=True):
            digit["gain"] = gain
        known = [gain for gain in gain_K if gain is not None]
        quality["mean_gain"] = float(np.mean(known)) if len(known) == len(gain_K) else None
        quality |= {"codebooks": codes_IK.shape[1], **collisions(codes_IK), **facts}
    if hasattr(tokenizer, "facts"):
        quality |= tokenizer.facts(**needed)
    return CodesTable(codes_IK, codewords, values.get("shared", False)), quality


def _items(data: Artifact, column: str) -> Any:
    """A column of ``items.parquet``."""
    return read_table(data.path / "items.parquet", ITEMS, [column])[column]


def _check_same_vectors(ws: Workspace, codebook: Artifact, data: Artifact, vectors: Artifact) -> None:
    """Raises UsageError if an item with the same raw id and text had another vector when the codebook was fitted.

    Settings do not identify vectors: a file of vectors has no settings, and a model's name is without its commit.
    """
    old = ws.input(codebook, "vectors")
    commit, old_commit = (artifact.result.get("revision") for artifact in (vectors, old))
    other = f"The codebook of {codebook.path.name} was fitted on vectors of another encoder: "
    if commit and old_commit and commit != old_commit:
        hint = f"--set encoder.revision={old_commit} for both, or leave --codebook-from out"
        raise UsageError(f"{other}commit {old_commit}, not {commit}.", hint=hint)
    items, old_items = (
        list(zip(_items(artifact, "raw_id").to_pylist(), _items(artifact, "text").to_pylist(), strict=True))
        for artifact in (data, ws.input(codebook, "data"))
    )
    row_of = {item: row for row, item in enumerate(old_items)}
    pairs = [(row, row_of[item]) for row, item in enumerate(items) if item in row_of]
    if not pairs:
        console.say(f"no item of {codebook.path.name} is in these data, so the vectors cannot be compared")
        return
    row_N, old_row_N = np.array(pairs).T
    vec_ND, old_ND = read_vectors(vectors.path)[row_N], read_vectors(old.path)[old_row_N]
    if vec_ND.shape != old_ND.shape:
        raise UsageError(f"{other}{old_ND.shape[1]} wide, not {vec_ND.shape[1]}.", hint="Give the same --encoder")
    differ_N = np.linalg.norm(vec_ND - old_ND, axis=1) > SAME_VECTOR * np.linalg.norm(old_ND, axis=1)
    if count := np.count_nonzero(differ_N):
        names = ", ".join(items[row][0] for row in row_N[differ_N][:5]) + (", ..." if count > 5 else "")
        what = f"{count:,} of {len(pairs):,} items with the same raw id and text differ: {names}."
        hint = "Give the same --encoder (your vectors: made in the same way), or leave --codebook-from out"
        raise UsageError(f"{other}{what}", hint=hint)
