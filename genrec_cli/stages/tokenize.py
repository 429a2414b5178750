"""tokenize: item texts to vectors, and vectors to codes. Two artifacts, because vectors are slow and shared.

* ``vectors/<encoder>-<key>``: ``vectors.safetensors`` with ``vectors`` (float32, I x D).
* ``codes/<tokenizer><K>x<V>-<encoder>-<key>``: ``codes.parquet``, ``codebook.safetensors``, ``quality.json``.

A tokenizer that reads titles needs no vectors: ``codes/<tokenizer><K>x<V>-<key>`` is made from the data alone.

Row i is item i + 1 in both.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Draft, Plan, Workspace
from genrec_cli.config import Section, did_you_mean, validate
from genrec_cli.data.schema import CODE_PADDING, ITEMS, codes_schema, read_table, write_table
from genrec_cli.encoders.base import Batched, Encoder
from genrec_cli.encoders.vectors import SUFFIXES
from genrec_cli.errors import DataError, UsageError
from genrec_cli.ranks import here
from genrec_cli.stages.encode import encode
from genrec_cli.tokenizers.base import TitleTokenizer, Tokenizer
from genrec_cli.tokenizers.collisions import Policy, settle
from genrec_cli.tokenizers.kmeans import check_codewords, one_thread
from genrec_cli.tokenizers.quality import collisions, measure, of_codes

VECTORS_VERSION = 1
CODES_VERSION = 1
FILE = "vectors.safetensors"
SAME_VECTOR = 0.01
"""Up to this share of its length a vector may differ and be the same: devices and batches round differently."""
DIGITS_A_ROW = 8
"""Digits in a row of the printed table."""

Stage = tuple[Plan, Callable[[], Artifact | None]]
"""A plan, and the work that makes its artifact; None in a process that only lends the main one a hand."""


# ---- what to use ---------------------------------------------------------------------------------


def encoder_values(given: Mapping[str, Any], option: str | None, default: str) -> dict[str, Any]:
    """``[encoder]`` under ``--encoder``: a registered encoder, a file of vectors, or a model's name or folder.

    The option decides; without it what the files and ``--set`` say; the default if they name no encoder.
    """
    which = {"name", "model", "path"}
    if not option and which & given.keys():
        return dict(given)
    name = option or default
    if name in registry.names("encoder"):
        meant = {"name": name}
    elif Path(name).suffix in SUFFIXES:
        meant = {"name": "vectors", "path": name}
    else:
        meant = {"name": "sentence-transformers", "model": name}
        near = did_you_mean(name, registry.names("encoder"))
        if near and "/" not in name and not Path(name).is_dir():
            console.say(f"'{name}' is taken as a model of sentence-transformers.{near}")
    return {**{key: value for key, value in given.items() if key not in which}, **meant}


def make_encoder(values: Mapping[str, Any]) -> Encoder:
    """The encoder that ``[encoder]`` describes."""
    kind = registry.load("encoder", values.get("name", "sentence-transformers"))
    return kind(validate(kind.Config, "encoder", values))


def tokenizer_config(values: Mapping[str, Any], data: Artifact) -> Section:
    """The validated ``[tokenizer]``, its V checked against the training items before any slow work."""
    kind = registry.load("tokenizer", values.get("name", "opq"))
    config = validate(kind.Config, "tokenizer", values)
    if not reads_titles(values):
        counts = read_table(data.path / "items.parquet", ITEMS, ["train_count"])["train_count"].to_numpy()
        check_codewords(config.codewords, int(np.count_nonzero(counts)))
    return config


def reads_titles(values: Mapping[str, Any]) -> bool:
    """Whether the tokenizer of ``[tokenizer]`` reads titles in place of vectors."""
    return getattr(registry.load("tokenizer", values.get("name", "opq")), "reads_titles", False)


def frozen_config(
    ws: Workspace, codebook: Artifact, given: Mapping[str, Any], encoder: Encoder, data: Artifact
) -> Section:
    """The ``[tokenizer]`` of codes whose codebook is to be used again, if that can be meant.

    Raises:
        UsageError: options that contradict it, another encoder, or no codebook.
    """
    recorded = codebook.config["tokenizer"]
    if reads_titles(recorded):
        raise UsageError(f"{codebook.path.name} holds {recorded['name']} codes: there is no codebook to use again.")
    for key, value in given.items():
        if key != "collisions" and recorded.get(key) != value:
            raise UsageError(
                f"tokenizer.{key} is {value!r}, but the codebook of {codebook.path.name} has {recorded.get(key)!r}.",
                hint="Leave the option out: --codebook-from fixes it",
            )
    if "centroids" not in _tensor_names(codebook.path / "codebook.safetensors"):
        raise UsageError(f"{codebook.path.name} holds {recorded['name']} codes: there is no codebook to use again.")
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
            f"{encoder.label} vectors are fitted on the texts of one data artifact, so a codebook fits no other.",
            hint="Use a sentence-transformers model or your own vectors for both",
        )
    return validate(registry.load("tokenizer", recorded["name"]).Config, "tokenizer", {**recorded, **given})


# ---- vectors -------------------------------------------------------------------------------------


def vectors_stage(ws: Workspace, data: Artifact, encoder: Encoder) -> Stage:
    """Item texts to vectors."""
    plan = Plan(
        dataset=data.dataset,
        kind="vectors",
        label=encoder.label,
        version=VECTORS_VERSION,
        config={"encoder": encoder.config.model_dump(mode="json")},
        inputs={"data": data},
        external=encoder.external(),
    )

    def work() -> Artifact | None:
        from safetensors.numpy import save_file

        items = read_table(data.path / "items.parquet", ITEMS, ["raw_id", "text"])
        texts = [text or "" for text in items["text"].to_pylist()]
        raw_ids = items["raw_id"].to_pylist()
        if not here().main:
            here().barrier()
            encode(encoder, texts, raw_ids, plan, ws.path(plan))
            return None
        with ws.build(plan, resumable=isinstance(encoder, Batched)) as draft:
            here().barrier()
            vec_ID = encode(encoder, texts, raw_ids, plan, draft.scratch)
            zero = int(np.count_nonzero(~vec_ID.any(axis=1)))
            if zero:
                console.say(f"{zero:,} of {len(texts):,} items have no usable text: their vectors are zero")
            save_file({"vectors": np.ascontiguousarray(vec_ID)}, draft.path / FILE)
            draft.result = {"items": len(vec_ID), "width": vec_ID.shape[1], "zero_vectors": zero, **encoder.facts}
        return ws.verified(_made(ws, plan))

    return plan, work


def read_vectors(vectors: Artifact) -> np.ndarray:
    """``vec_ID`` of a vectors artifact."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(vectors.path / FILE)["vectors"]
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"{vectors.path / FILE} cannot be read: {error}.") from None


# ---- codes ---------------------------------------------------------------------------------------


def codes_stage(
    ws: Workspace,
    data: Artifact,
    vectors: Artifact,
    encoder: Encoder,
    config: Section,
    codebook: Artifact | None = None,
) -> Stage:
    """Vectors to codes; with ``codebook`` the PCA and codebooks of other codes are used as they are."""
    values = config.model_dump(mode="json")
    policy = values.get("collisions", "none")
    own = f"{values['name']}{values['codebooks']}x{values['codewords']}" + (f"-{policy}" if policy != "none" else "")
    label = f"{own}-{encoder.label}"
    plan = Plan(
        dataset=data.dataset,
        kind="codes",
        label=f"{label}-frozen" if codebook else label,
        version=CODES_VERSION,
        config={"encoder": encoder.config.model_dump(mode="json"), "tokenizer": values},
        inputs={"data": data, "vectors": vectors} | ({"codebook": codebook} if codebook else {}),
    )

    def work() -> Artifact:
        kind = registry.load("tokenizer", values["name"])
        counts = read_table(data.path / "items.parquet", ITEMS, ["train_count"])["train_count"].to_numpy()
        vec_ID = read_vectors(vectors)
        if codebook:
            _check_same_vectors(ws, codebook, data, vectors, vec_ID)
        with ws.build(plan) as draft:
            if codebook:
                tokenizer = kind.load(codebook.path)
            else:
                tokenizer = kind(config)
                console.say(f"making {label} from {np.count_nonzero(counts):,} training items")
                tokenizer.fit(vec_ID, counts > 0)
            codes_IK, quality = _assign(tokenizer, vec_ID, values["codewords"], policy, values["seed"])
            _write(draft, tokenizer, codes_IK, quality)
        show(quality)
        return ws.verified(_made(ws, plan))

    return plan, work


def titles_stage(ws: Workspace, data: Artifact, config: Section) -> Stage:
    """Titles straight to codes."""
    values = config.model_dump(mode="json")
    label = f"{values['name']}{values['codebooks']}x{values['codewords']}"
    plan = Plan(data.dataset, "codes", label, CODES_VERSION, {"tokenizer": values}, {"data": data})

    def work() -> Artifact:
        items = read_table(data.path / "items.parquet", ITEMS, ["title", "train_count"])
        titles, train_I = items["title"].to_pylist(), items["train_count"].to_numpy() > 0
        with ws.build(plan) as draft:
            tokenizer: TitleTokenizer = registry.load("tokenizer", values["name"])(config)
            console.say(f"making {label} from {np.count_nonzero(train_I):,} titles of training items")
            tokenizer.fit(titles, train_I)
            codes_IK = tokenizer.codes(titles)
            quality = of_codes(codes_IK, values["codewords"]) | tokenizer.facts(titles)
            _write(draft, tokenizer, codes_IK, quality)
        show(quality)
        return ws.verified(_made(ws, plan))

    return plan, work


def _check_same_vectors(
    ws: Workspace, codebook: Artifact, data: Artifact, vectors: Artifact, vec_ID: np.ndarray
) -> None:
    """That an item whose raw id and text are as they were has the vector that the codebook was made for.

    Settings cannot tell: own vectors have none, and a model's name says nothing of its commit.

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
        read_table(artifact.path / "items.parquet", ITEMS, ["raw_id", "text"]).to_pydict()
        for artifact in (data, ws.input(codebook, "data"))
    )
    row_of = {item: row for row, item in enumerate(zip(then["raw_id"], then["text"], strict=True))}
    pairs = [(i, row_of[item]) for i, item in enumerate(zip(now["raw_id"], now["text"], strict=True)) if item in row_of]
    if not pairs:
        console.say(f"no item of {codebook.path.name} is among these: whether the vectors are alike is not checked")
        return
    here_N, there_N = np.array(pairs).T
    a_ND, b_ND = vec_ID[here_N], read_vectors(old)[there_N]
    if a_ND.shape != b_ND.shape:
        raise UsageError(f"{other}{b_ND.shape[1]} wide, not {a_ND.shape[1]}.", hint="Give the same --encoder")
    length_N = np.linalg.norm(b_ND, axis=1)
    differ_M = here_N[np.linalg.norm(a_ND - b_ND, axis=1) > SAME_VECTOR * length_N]
    if len(differ_M):
        names = ", ".join(now["raw_id"][i] for i in differ_M[:5]) + (", ..." if len(differ_M) > 5 else "")
        raise UsageError(
            f"{other}{len(differ_M):,} of {len(pairs):,} items with the same raw id and text differ: {names}.",
            hint="Give the same --encoder (for own vectors: made in the same way), or leave --codebook-from out",
        )


def show(quality: Mapping[str, Any]) -> None:
    """Print what ``quality.json`` holds, for people."""
    shares = {
        "items that share all codes with another": "colliding_share",
        "the same before the collision policy": "colliding_share_before",
        "items that were moved to a free code": "moved_share",
        "information that digits share, beyond chance": "mutual_information_adjusted",
        "relative reconstruction error": "reconstruction_error",
        "10 nearest text neighbours kept, by decoded vectors": "neighbours_kept_by_decoded",
        "10 nearest text neighbours kept, by equal digits": "neighbours_kept_by_digits",
        "items without a title": "untitled_share",
        "titles of more than K codes, cut": "cut_share",
        "codes that are padding": "padding_share",
    }
    rows = [
        ["items", f"{quality['items']:,}"],
        ["distinct codes", f"{quality['distinct_codes']:,}"],
        ["largest group with the same codes", f"{quality['largest_group']:,}"],
        *(
            [text, "-" if quality[name] is None else f"{quality[name]:.2%}"]
            for text, name in shares.items()
            if name in quality
        ),
    ]
    console.table("Codes", ["", "value"], rows)
    digits, most = quality["digits"], np.log2(quality["codewords"])
    groups = [range(start, min(start + DIGITS_A_ROW, len(digits))) for start in range(0, len(digits), DIGITS_A_ROW)]
    console.table(
        f"Digits: codewords used of {quality['codewords']:,}, entropy of at most {most:.2f} bits",
        ["digits", "codewords used", "entropy (bits)"],
        [
            [
                f"{group[0] + 1}-{group[-1] + 1}",
                " ".join(f"{digits[k]['used']:4d}" for k in group),
                " ".join(f"{digits[k]['entropy']:5.2f}" for k in group),
            ]
            for group in groups
        ],
    )


def _assign(
    tokenizer: Tokenizer, vec_ID: np.ndarray, codewords: int, policy: Policy, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """``codes_IK`` and their quality; on one thread, so that the last bits depend on no machine's cores.

    A digit that only counts items of equal codes decides which collide, and is left out of all other figures.
    """
    found_IK = tokenizer.codes(vec_ID)
    with one_thread():
        codes_IK, facts = settle(policy, tokenizer, vec_ID, found_IK, codewords)
        own_IK = codes_IK[:, : found_IK.shape[1]]
        quality = measure(vec_ID, own_IK, codewords, tokenizer.reduced(vec_ID), tokenizer.decode(own_IK), seed=seed)
        return codes_IK, quality | {"codebooks": codes_IK.shape[1]} | collisions(codes_IK) | facts


def _write(draft: Draft, tokenizer: Tokenizer | TitleTokenizer, codes_IK: np.ndarray, quality: dict[str, Any]) -> None:
    _write_codes(codes_IK, draft.path / "codes.parquet")
    tokenizer.save(draft.path)
    (draft.path / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
    draft.result = {name: value for name, value in quality.items() if name != "digits"}


def _write_codes(codes_IK: np.ndarray, path: Path) -> None:
    items, digits = codes_IK.shape
    stored_IK = np.where(codes_IK < 0, CODE_PADDING, codes_IK).astype(np.uint16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(stored_IK.ravel()), digits)
    table = pa.table({"item": pa.array(np.arange(1, items + 1), pa.uint32()), "codes": column})
    write_table(table, path, codes_schema(digits))


def _tensor_names(path: Path) -> set[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            return set(stored.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _made(ws: Workspace, plan: Plan) -> Artifact:
    return ws.made(plan)
