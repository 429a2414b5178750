"""The commands as functions of Python: ``import genrec_cli as genrec``.

    data = genrec.preprocess(log, dataset="shop", items=items)
    codes = genrec.tokenize(data, encoder="lsa", codebooks=8)
    run = genrec.train("mhl", codes=codes, epochs=20)
    print(genrec.evaluate(run).result["metrics"])
    lists = genrec.load(run).recommend({"anna": ["tent", "stove"]}, k=5)

Keyword arguments are the options of the command of the same name; ``settings`` are those of ``--set``. The artifacts
are the same as those of the commands, so finished ones are not made again. Errors are :class:`GenrecError`; nothing is
printed unless ``verbose`` is true, and warnings are those of Python.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from genrec_cli import console
from genrec_cli.calls import (
    Call,
    Frame,
    Given,
    Made,
    Shared,
    calling,
    file_of,
    frames_as_files,
    listed,
    name_of,
)
from genrec_cli.config import parse_set, refuse_unread, validate
from genrec_cli.distributed import resolve_device
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.progress import Callbacks
from genrec_cli.errors import UsageError
from genrec_cli.loaded import Loaded
from genrec_cli.sources.datasets import check_name
from genrec_cli.sources.logs import Logs
from genrec_cli.stages import blend as blending
from genrec_cli.stages import compare as comparing
from genrec_cli.stages import download as downloading
from genrec_cli.stages import evaluate as evaluating
from genrec_cli.stages import preprocess as preprocessing
from genrec_cli.stages import tokenize as tokenizing
from genrec_cli.stages import train as training
from genrec_cli.stages import train_plan
from genrec_cli.stages.exported import ExportedRun, export_folder
from genrec_cli.stages.new_data import run_on_data
from genrec_cli.stages.trained import Run


def download(dataset: str, /, *, from_dir: str | os.PathLike[str] | None = None, **shared: Unpack[Shared]) -> Made:
    """The raw files of a data set of the catalogue, fetched, copied from a folder, or generated."""
    with calling(shared.get("verbose", False)):
        shared["dataset"] = dataset
        call = Call("download", shared, {"from_dir": from_dir})
        plan = downloading.plan(dataset, call.layers({})["source"])
        folder = Path(from_dir) if from_dir else None
        return call.make(plan, lambda: downloading.download(call.ws, plan, from_dir=folder, force=call.force))


def preprocess(
    interactions: Frame | str | os.PathLike[str] | None = None,
    *,
    items: Frame | str | os.PathLike[str] | None = None,
    k_core: int | None = None,
    where: str | None = None,
    events: Sequence[str] | None = None,
    event_col: str | None = None,
    keep_cold_items: bool | None = None,
    split: str | None = None,
    valid_from: Any = None,
    test_from: Any = None,
    fields: Sequence[str] | None = None,
    user_col: str | None = None,
    item_col: str | None = None,
    time_col: str | None = None,
    item_id_col: str | None = None,
    time_unit: str | None = None,
    title_col: str | None = None,
    list_separator: str | None = None,
    source: str | None = None,
    from_dir: str | os.PathLike[str] | None = None,
    raw: Given | None = None,
    **shared: Unpack[Shared],
) -> Made:
    """Tables of training, validation and test from your own log, or from downloaded raw files.

    Args:
        interactions: a frame or a file with the columns ``user_id``, ``item_id`` and optionally ``timestamp``. None:
            the files of ``source`` in ``from_dir``, or the raw files of ``dataset``.
        items: a frame or a file with the column ``item_id``; its other columns are texts, such as ``title``.
    """
    own = {"user_col": user_col, "item_col": item_col, "time_col": time_col, "item_id_col": item_id_col}
    own |= {"time_unit": time_unit, "title_col": title_col, "list_separator": list_separator}
    words = {"events": listed(events), "fields": listed(fields)}
    named: dict[str, Any] = {
        "k_core": k_core,
        "where": where,
        "event_col": event_col,
        "keep_cold_items": keep_cold_items,
    }
    named |= {"split": split, "valid_from": valid_from, "test_from": test_from, **words}
    options: dict[str, Any] = {**named, **own}
    options |= {name: values and ",".join(values) for name, values in words.items()}
    options |= {"source": source, "from_dir": from_dir, "interactions": interactions, "items": items}
    with calling(shared.get("verbose", False)), frames_as_files() as folder:
        call = Call("preprocess", shared, options, [raw])
        if (source is None) != (from_dir is None) or (from_dir is not None and interactions is not None):
            raise UsageError("source and from_dir belong together, without interactions.", hint="Leave one out")
        outside = interactions is not None or from_dir is not None
        layers = call.layers(
            {"preprocess": named, **({"source": {"name": source or "logs", **own}} if outside else {})}
        )
        config = validate(preprocessing.PreprocessConfig, "preprocess", layers["preprocess"])
        dataset = check_name(call.name) if outside else call.dataset
        if from_dir is not None:
            origin = preprocessing.from_folder(layers["source"], Path(from_dir))
        elif interactions is not None:
            log = file_of(interactions, folder, "interactions")
            described = None if items is None else file_of(items, folder, "items")
            origin = preprocessing.from_files(validate(Logs.Config, "source", layers["source"]), log, described)
        else:
            origin = preprocessing.from_raw(call.ws, dataset, name_of(raw))
        return call.make(*preprocessing.preprocess(call.ws, dataset, config, origin))


def tokenize(
    data: Given | None = None,
    *,
    tokenizer: str | None = None,
    codebooks: int | None = None,
    codewords: int | None = None,
    collisions: str | None = None,
    encoder: str | None = None,
    pca: int | None = None,
    seed: int | None = None,
    codes: str | os.PathLike[str] | None = None,
    codebook_from: Given | None = None,
    **shared: Unpack[Shared],
) -> Made:
    """Codes of all items; their vectors are made before if they are missing."""
    own = {"codebooks": codebooks, "codewords": codewords, "pca": pca, "seed": seed, "collisions": collisions}
    options = {"data": data, "tokenizer": tokenizer, **own, "encoder": encoder, "codes": codes}
    with calling(shared.get("verbose", False)):
        call = Call("tokenize", shared, {**options, "codebook_from": codebook_from}, [data, codebook_from])
        layers = call.layers({"tokenizer": {"name": tokenizer, **own}})
        made = tokenizing.plan(
            call.ws,
            call.ws.find(call.dataset, "data", name_of(data)),
            layers,
            encoder=encoder,
            default_encoder=os.environ.get("GENREC_ENCODER") or "sentence-transformers",
            tokenizer=tokenizer,
            codes=name_of(codes),
            codebook_from=name_of(codebook_from),
        )
        assert made is not None
        return call.make(*made)


def train(
    model: str = "mhl",
    *,
    curriculum: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    precision: str | None = None,
    data: Given | None = None,
    codes: Given | None = None,
    vectors: Given | None = None,
    init_from: Given | None = None,
    freeze: Sequence[str] | None = None,
    label: str | None = None,
    device: str = "auto",
    **shared: Unpack[Shared],
) -> Made:
    """A run: the weights of the best epoch. An interrupted training goes on when the same call is made again."""
    own: dict[str, Any] = {"seed": seed, "epochs": epochs, "batch_size": batch_size, "lr": lr, "precision": precision}
    sources = {"data": data, "codes": codes, "vectors": vectors, "init_from": init_from}
    own |= {"freeze": listed(freeze)}
    options = {"model": model, "curriculum": curriculum, **own, **sources, "label": label}
    with calling(shared.get("verbose", False)):
        call = Call("train", shared, options, list(sources.values()))
        layers = call.layers({"model": {"name": model}, "curriculum": {"preset": curriculum}, "train": own})
        inputs = train_plan.Inputs(**{name: name_of(given) for name, given in sources.items()})
        plan = train_plan.plan(call.ws, call.dataset, model, layers, inputs=inputs, label=label)
        refuse_unread(parse_set(call.assigned.assigned), train_plan.sections_of(model), f"train --model {model}")
        work = partial(training.train, call.ws, plan, device=device, force=call.force, callbacks_for=_callbacks)
        return call.make(plan.plan, work)


def blend(*runs: Given, label: str | None = None, device: str = "auto", **shared: Unpack[Shared]) -> Made:
    """A run that mixes the predictions of runs on the same data; its weights are chosen on validation."""
    names = [os.fspath(run) for run in runs]
    with calling(shared.get("verbose", False)):
        call = Call("blend", shared, {"label": label}, runs)
        call.ws.argv[1:1] = names
        config = validate(blending.BlendConfig, "blend", call.layers({}).get("blend", {}))
        plan = blending.plan(call.ws, call.dataset, config, names, label)
        bar = console.user_bar("scoring")
        return call.make(plan, partial(blending.run, call.ws, plan, config, device=device, bar=bar))


def evaluate(
    run: Given | None = None,
    *,
    split: str | None = None,
    at: Sequence[int] | None = None,
    search: str | None = None,
    vectors: Given | None = None,
    data: Given | None = None,
    codes: Given | None = None,
    device: str = "auto",
    **shared: Unpack[Shared],
) -> Made:
    """The metrics of a run over the whole catalogue: ``result["metrics"]["kept"]["NDCG@10"]`` and ``"left_out"``."""
    own, inputs = {"split": split, "search": search}, {"run": run, "vectors": vectors, "data": data, "codes": codes}
    cutoffs = listed(at)
    with calling(shared.get("verbose", False)):
        words = {**inputs, **own, "at": cutoffs and ",".join(map(str, cutoffs))}
        call = Call("evaluate", shared, words, list(inputs.values()))
        layers = call.layers({"evaluate": {**own, "at": cutoffs}})
        names = {name: name_of(given) for name, given in inputs.items()}
        plan, config = evaluating.plan(call.ws, call.dataset, layers, **names)
        refuse_unread(parse_set(call.assigned.assigned), plan.config, "evaluate")
        bar = console.user_bar("scoring")
        return call.make(plan, partial(evaluating.run, call.ws, plan, config, device=device, bar=bar))


def compare(
    *runs: Given | Sequence[Given],
    by: str | None = None,
    metrics: Sequence[str] | None = None,
    split: str | None = None,
    drop: int | None = None,
    device: str = "auto",
    **shared: Unpack[Shared],
) -> Made:
    """Runs or evaluations against the first one, on the same users; ``frame("table")`` has differences and tests.

    A list of runs in place of one run: seeds of one setting.
    """
    if len(runs) < 2:
        raise UsageError("There is nothing to compare.", hint="Give two runs, or more")
    groups = [[run] if isinstance(run, (str, os.PathLike, Made)) else list(run) for run in runs]
    sides = [",".join(os.fspath(run) for run in group) for group in groups]
    measures = listed(metrics)
    own = {"by": by, "metrics": measures, "split": split, "drop": drop}
    with calling(shared.get("verbose", False)):
        options = {**own, "metrics": measures and ",".join(measures)}
        call = Call("compare", shared, options, [run for group in groups for run in group])
        call.ws.argv[1:1] = sides
        plan = comparing.plan(call.ws, call.dataset, call.layers({"compare": own}), sides=sides)
        bar = console.user_bar("scoring")
        return call.make(plan.plan, partial(comparing.run, call.ws, plan, device=device, bar=bar))


def load(
    run: Given | None = None,
    *,
    data: Given | None = None,
    codes: Given | None = None,
    device: str = "auto",
    **shared: Unpack[Shared],
) -> Loaded:
    """A finished run or an exported folder, to recommend with; ``data`` and ``codes`` are newer ones."""
    with calling(shared.get("verbose", False)):
        where, name = resolve_device(device), name_of(run)
        call = Call("recommend", shared, {}, [run, data, codes])
        if folder := export_folder(call.ws, name):
            if data is not None or codes is not None:
                raise UsageError("data and codes need a run; an export has its own items.", hint="Leave them out")
            trained: Run = ExportedRun(folder, where)
        else:
            artifact = call.ws.find(call.dataset, "runs", name)
            trained = run_on_data(call.ws, artifact, where, data=name_of(data), codes=name_of(codes))
        if trained.settings.model_dump():
            trained.set_search(call.layers({}).get("search", {}))
        else:
            refuse_unread(parse_set(call.assigned.assigned), (), f"recommend --run {trained.name}")
        return Loaded(trained)


def _callbacks(loop: Loop) -> Callbacks:
    """A message per epoch, which is printed if the call is verbose."""
    metric, epochs = loop.config.metric, loop.config.epochs

    def epoch(row: dict[str, Any]) -> None:
        value = row.get(f"valid/{metric}")
        console.say(f"epoch {row['epoch']}/{epochs}" + (f"  {metric} {value:.4f}" if value is not None else ""))

    return Callbacks(epoch=epoch)
