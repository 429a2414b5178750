"""preprocess: raw files -> canonical tables, with k-core, split, item texts and statistics."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from genrec_cli import console, registry
from genrec_cli.artifacts import Artifact, Draft, Plan, Workspace
from genrec_cli.config import Count, Fraction, Section, Seed, validate
from genrec_cli.data import assign_ids, schema, split
from genrec_cli.data.engines import Engine, batches, open_engine
from genrec_cli.data.histories import USER, write_interactions
from genrec_cli.data.ingest import IngestedLog
from genrec_cli.data.kcore import k_core
from genrec_cli.data.text import joined
from genrec_cli.errors import DataError, refuse_special
from genrec_cli.files import refuse_changed, sha256_file, stamps
from genrec_cli.sources.base import BadRows, Tables
from genrec_cli.sources.logs import Logs
from genrec_cli.sources.row_filter import RowFilter
from genrec_cli.stages.described_items import (
    attribute_table,
    choose_fields,
    describe,
    numbered,
    warn_without_titles,
    with_cold_items,
)
from genrec_cli.stages.preprocess_checks import check_times, refuse_unread

VERSION = 4


class PreprocessConfig(Section):
    """The section ``[preprocess]``."""

    k_core: int = Field(5, ge=0)
    """Minimum count of interactions per user and per item, repeated until nothing changes; 0 keeps all."""
    where: str | None = None
    """Keep the interactions for which this SQL expression over the columns of the log is true, before the k-core."""
    events: tuple[str, ...] = ()
    """Keep the interactions with these values of ``event_col``; empty: all."""
    event_col: str = "event"
    """Column of the kind of interaction in the log, read with ``events``."""
    keep_cold_items: bool = False
    """Keep the items of the metadata that have no interactions, or fewer than the k-core asks for: they get ids, codes
    and vectors, and can be recommended."""
    split: Literal["leave-one-out", "time", "none"] = "leave-one-out"
    """leave-one-out: the last two interactions of each user are targets; time: two periods; none: all interactions are
    for training, and there are no targets."""
    valid_from: float | str = 0.8
    """Split by time: start of the validation period, as a fraction of the interactions or an ISO date."""
    test_from: float | str = 0.9
    """Split by time: start of the test period, in the same way."""
    fields: tuple[str, ...] | None = None
    """Text fields in order; an absent one is an error. Default: the existing ones of title, price, brand, feature,
    categories, description."""
    min_attribute_items: Count = 5
    """A brand or category is an attribute if at least this number of items have it."""
    drop_duplicates: bool = False
    """Keep one row per user, item and time. The published statistics keep all rows."""
    shuffle_ties: Seed | None = None
    """Seed of a random order of the interactions of one user that have equal times. Default: the order of the file."""
    skip_bad_rows: bool = False
    """Skip lines that cannot be read instead of refusing the file."""
    max_bad_rows: Fraction = 0.01
    """Largest fraction of the lines of a file that ``skip_bad_rows`` skips; more are an error."""


@dataclass(frozen=True)
class Origin:
    """The source of the two tables, and its identity."""

    read: Callable[[BadRows, RowFilter], Tables]
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    """Stamps of outside files, taken before the hashes."""


def from_raw(ws: Workspace, dataset: str, selector: str | None = None) -> Origin:
    """The raw artifact of a data set and the source of its configuration."""
    raw = ws.find(dataset, "raw", selector)
    values = raw.config["source"]
    source = registry.load("source", values["name"])
    config = validate(source.Config, "source", values)
    return Origin(lambda bad, rows: source(config).read(raw.path, bad, rows), inputs={"raw": raw})


def from_folder(values: Mapping[str, Any], folder: Path) -> Origin:
    """The raw files of a source in a folder of yours. ``values``: settings of ``[source]``."""
    kind = registry.load("source", str(values["name"]))
    config = validate(kind.Config, "source", values)
    source = kind(config)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = {path.name: path for path in source.paths(folder)}
    if not files:
        raise DataError(f"{folder} holds no file of the source '{values['name']}'.", hint=source.expects())
    for path in files.values():
        refuse_special(path)
    before = stamps(files.values())
    return Origin(
        lambda bad, rows: source.read(folder, bad, rows),
        config={"source": config.model_dump(mode="json")},
        external={name: sha256_file(path) for name, path in files.items()},
        before=before,
    )


def from_files(config: Logs.Config, interactions: Path, items: Path | None) -> Origin:
    """Your own files."""
    files = {"interactions": interactions} | ({"items": items} if items else {})
    for path in files.values():
        refuse_special(path)
        if not path.exists():
            raise DataError(f"There is no file {path}.")
    before = stamps(files.values())
    return Origin(
        lambda bad, rows: Logs(config).read_files(interactions, items, bad, rows),
        config={"source": config.model_dump(mode="json")},
        external={name: sha256_file(path) for name, path in files.items()},
        before=before,
    )


def preprocess(
    ws: Workspace, dataset: str, config: PreprocessConfig, origin: Origin, *, engine: str = "polars"
) -> tuple[Plan, Callable[[], Artifact]]:
    """The plan of the data artifact, and the work that makes it; ``engine`` does not change the result.

    Raises :class:`ConfigError` for a setting that nothing reads. The work raises
    :class:`DataError` for bad lines (unless skipped), an empty k-core, an absent field, and a split by
    time without times.
    """
    refuse_unread(config)
    settings = {"preprocess": config.model_dump(mode="json"), **origin.config}
    ties = "" if config.shuffle_ties is None else f"-ties{config.shuffle_ties}"
    cold = "-cold" if config.keep_cold_items else ""
    label = f"k{config.k_core}-{'loo' if config.split == 'leave-one-out' else config.split}{ties}{cold}"
    rows = RowFilter(config.where, config.events, config.event_col)  # refuses a wrong expression before any work
    plan = Plan(dataset, "data", label, VERSION, settings, origin.inputs, origin.external)

    def work() -> Artifact:
        with ws.build(plan) as draft:
            make_tables(draft, config, origin, engine, rows)
        return ws.made(plan)

    return plan, work


def make_tables(draft: Draft, config: PreprocessConfig, origin: Origin, engine_name: str, rows: RowFilter) -> None:
    """Read, filter, assign ids, split and write; the statistics go to the result of the draft."""
    bad = BadRows(skip=config.skip_bad_rows, most=config.max_bad_rows)
    tables = origin.read(bad, rows)
    scratch = draft.path / "scratch"
    scratch.mkdir()
    engine = open_engine(engine_name, scratch)
    log = IngestedLog.of(tables.interactions, scratch / "log.parquet")
    refuse_changed(origin.before)  # the key holds the hashes of the unchanged files
    bad.check()
    if bad.count:
        console.warn(f"{bad.count:,} bad line(s) left out. The first: {bad.first}.")
    unseen = rows.unseen_events()
    if not log.rows and rows.left_out:
        raise DataError(
            f"--where and --events leave out all of {rows.left_out:,} interactions.",
            hint=unseen or "Look at the values of the columns: " + ", ".join(rows.columns),
        )
    if unseen:
        console.warn(unseen)
    if log.rows and not log.times_are_rows:
        split.refuse_written_dates(engine, engine.scan(log.path))
    times = not (log.times_are_rows or split.times_are_positions(engine, engine.scan(log.path)))
    check_times(config, log, times=times)
    repeated = assign_ids.repeated(engine, log)
    source = assign_ids.without_repeated(engine, log) if config.drop_duplicates and repeated else log.path
    core = k_core(engine, source, config.k_core)
    user_labels, item_labels = (assign_ids.first_seen(engine, core, side, log.order) for side in ("user", "item"))
    users, items = numbered("user", log.users.texts(user_labels)), numbered("item", log.items.texts(item_labels))
    warm, items = items.height, with_cold_items(items, tables.items) if config.keep_cold_items else items
    ordered = assign_ids.ordered(engine, core, user_labels, item_labels, log.order, ties=config.shuffle_ties)
    split_users, bounds = _split(engine, ordered, config)
    user_U = np.empty(users.height, USER)
    for name in USER.names or ():
        user_U[name] = split_users[name].to_numpy()
    train_count_I = write_interactions(draft.path, batches(ordered), user_U, items.height, times=times)
    texts, names, metadata = describe(items, tables.items)
    attributes, attribute_ids = attribute_table(names, config.min_attribute_items)
    fields, absent = choose_fields(texts, config.fields)
    described = items.with_columns(
        texts["title"], joined(texts, fields), attribute_ids, pl.Series("train_count", train_count_I)
    )
    warn_without_titles(texts, tables.items is not None)
    frames = {"users": users.join(split_users, on="user", maintain_order="left"), "items": described}
    written = {}
    for name, frame in (frames | {"attributes": attributes}).items():
        columns = schema.SCHEMAS[name]
        written[name] = frame.select(columns.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        schema.write_table(written[name], draft.path / f"{name}.parquet", columns)
    ends = split.first_and_last(engine, engine.scan(ordered)) if times else ()
    read = {f"{side}s_read": assign_ids.distinct(engine, log, side) for side in ("user", "item")}
    shutil.rmtree(scratch)
    draft.result = schema.statistics(written["users"], written["items"], attributes.height) | {
        "interactions_read": log.rows + rows.left_out,
        "interactions_left_out": rows.left_out,
        "cold_items": items.height - warm,
        "times": times,
        "duplicates": repeated,
        "bad_rows": bad.count,
        "bad_rows_by_reason": bad.by_reason,
        "bad_rows_first": bad.first,
        "fields": list(fields),
        "fields_absent": absent,
    }
    draft.result |= {name: split.date_of(time) for name, time in zip(("first_day", "last_day"), ends, strict=False)}
    draft.result |= read | metadata | bounds
    report(draft.result)


def _split(engine: Engine, ordered: Path, config: PreprocessConfig) -> tuple[pl.DataFrame, dict[str, int]]:
    """The table of users without raw ids, and the times (in seconds) of a split by time."""
    interactions = engine.scan(ordered)
    if config.split == "none":
        return split.for_training(engine, interactions), {}
    if config.split == "leave-one-out":
        return split.leave_one_out(engine, interactions), {}
    bounds = {
        name: split.seconds_of(engine, getattr(config, name), interactions, f"preprocess.{name}")
        for name in ("valid_from", "test_from")
    }
    if bounds["valid_from"] >= bounds["test_from"]:
        raise DataError(
            f"The validation period begins at {bounds['valid_from']} and the test period at {bounds['test_from']} "
            "(seconds): there is nothing between them.",
            hint="Choose others with --valid-from and --test-from",
        )
    return split.by_time(engine, interactions, **bounds), bounds


def report(result: Mapping[str, Any]) -> None:
    """The statistics as a table."""
    rows: list[tuple[str, Any]] = [
        (name.replace("_", " "), split.date_of(int(value)) if name in ("valid_from", "test_from") else value)
        for name, value in result.items()
        if isinstance(value, (int, float)) and value is not False
    ]
    rows += [(f"bad rows: {reason}", count) for reason, count in result["bad_rows_by_reason"].items()]
    if "first_day" in result:
        rows.append(("days", f"{result['first_day']} to {result['last_day']}"))
    rows += [("first bad row", result["bad_rows_first"]), ("text of", ", ".join(result["fields"]) or None)]
    console.table("", ("data", "value"), [(name, console.cell(value)) for name, value in rows])
