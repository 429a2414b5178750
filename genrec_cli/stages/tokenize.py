"""tokenize: the vectors of the items, if they are needed, and then their codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.errors import UsageError
from genrec_cli.process_group import current_group
from genrec_cli.stages import codes as codes_of
from genrec_cli.stages.own_codes import OwnCodes
from genrec_cli.stages.vectors import NAMING, Stage, encoder_values, make_encoder, vectors_stage


def plan(
    ws: Workspace,
    tables: Artifact,
    layers: Mapping[str, Mapping[str, Any]],
    *,
    encoder: str | None,
    default_encoder: str,
    tokenizer: str | None = None,
    codes: str | None = None,
    codebook_from: str | None = None,
    dry_run: bool = False,
) -> Stage | None:
    """The plan of the codes and the work that makes them; vectors that are missing are made here.

    Args:
        tables: the data artifact.
        encoder, tokenizer, codes, codebook_from: the options of the command.
        dry_run: make nothing.

    Returns:
        None outside of the main process, as one process makes the codes.

    Raises:
        UsageError: options that contradict each other.
    """
    given = {name: dict(layers.get(name, {})) for name in ("encoder", "tokenizer", "behaviour")}
    needs = frozenset() if codes else codes_of.needs(given["tokenizer"])
    invalid = {"--codebook-from": codebook_from and (codes or "vectors" not in needs)}
    invalid |= {"--tokenizer": codes and tokenizer, "--encoder": encoder and "titles" in needs}
    for option in filter(invalid.get, invalid):
        what = "--codes gives the codes" if codes else "this tokenizer reads no vectors"
        raise UsageError(f"{option} cannot be combined with these options: {what}.", hint=f"Leave {option} out")
    file_codes = OwnCodes(codes, given["tokenizer"], tables) if codes else None

    model = vectors = codebook = None
    if "vectors" in needs or encoder or (given["encoder"] and "titles" not in needs):
        codebook = codes_named(ws, tables.dataset, codebook_from) if codebook_from else None
        default = codes_of.encoder_of(codebook) if codebook else {}
        if not encoder and not NAMING & given["encoder"].keys():
            given["encoder"] = default | given["encoder"]
        model = make_encoder(encoder_values(given["encoder"], encoder, default_encoder))
    if codebook and model:
        config = codes_of.frozen_config(ws, codebook, given["tokenizer"], model, tables)
    else:
        config = file_codes.config if file_codes else codes_of.tokenizer_config(given["tokenizer"], tables)
    behaviour = codes_of.behaviour_config(given["behaviour"], tables, codebook)
    if model:
        vectors_plan, work = vectors_stage(ws, tables, model)
        vectors = ws.done(vectors_plan)
        if vectors is None:
            console.say(f"vectors/{vectors_plan.name}: {'would be made first' if dry_run else 'making them first'}")
        if vectors is None and dry_run:
            facts = {"key": vectors_plan.key, "digest": "", "config": vectors_plan.config}
            vectors = Artifact(ws.path(vectors_plan), facts)
        elif vectors is None:
            vectors = work()
    if not current_group().main:
        return None
    return codes_of.codes_stage(ws, tables, config, vectors, codebook, file_codes, behaviour)


def codes_named(ws: Workspace, dataset: str, name: str) -> Artifact:
    """The codes of a name or path, or those that the run of this name or path was trained with.

    Raises:
        UsageError: the run reads no codes.
    """
    at = ws.read(Path(name))
    is_run = at.kind == "runs" if at else any(name in (run.path.name, run.label) for run in ws.all(dataset, "runs"))
    if not is_run:
        return ws.find(dataset, "codes", name)
    run = ws.find(dataset, "runs", name)
    if "codes" not in run.manifest["inputs"]:
        hint = "Name codes, or a run of a model that reads codes"
        raise UsageError(f"{run.path.name} reads no codes, so it has no codebook.", hint=hint)
    return ws.input(run, "codes")
