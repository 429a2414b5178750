"""preprocess: raw files to the canonical tables, with the k-core, the split, the texts and the statistics."""

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
from genrec_cli.config import Section, Seed, validate
from genrec_cli.data import assign_ids, schema, split
from genrec_cli.data.engines import Engine, batches, open_engine
from genrec_cli.data.histories import USER, write_interactions
from genrec_cli.data.ingest import Spool
from genrec_cli.data.kcore import k_core
from genrec_cli.data.text import clean, joined
from genrec_cli.errors import DataError, refuse_special
from genrec_cli.files import refuse_changed, sha256_file, stamps
from genrec_cli.sources.base import BadRows, Tables
from genrec_cli.sources.logs import Logs

VERSION = 3
DEFAULT_FIELDS = ("title", "price", "brand", "feature", "categories", "description")
"""Text fields of the papers, in their order. Those that a data set lacks are noted and left out."""


class PreprocessConfig(Section):
    """The section ``[preprocess]``."""

    k_core: int = Field(5, ge=0)
    """Least number of interactions per user and per item, repeated until nothing changes; 0 keeps all."""
    split: Literal["leave-one-out", "time"] = "leave-one-out"
    """leave-one-out: the last two of each user are targets; time: two periods."""
    valid_from: float | str = 0.8
    """Split by time: begin of the validation period, as a fraction of the interactions or an ISO date."""
    test_from: float | str = 0.9
    """Split by time: begin of the test period."""
    fields: tuple[str, ...] | None = None
    """Text fields in order; one that is absent is an error. Default: those of title, price, brand, feature,
    categories, description that there are."""
    drop_duplicates: bool = False
    """Keep one of the rows with the same user, item and time. The published statistics keep them all."""
    shuffle_ties: Seed | None = None
    """Seed of a random order of the interactions of one user that have equal times. Default: the order of the file."""
    skip_bad_rows: bool = False
    """Leave out lines that cannot be read instead of refusing the file."""


@dataclass(frozen=True)
class Origin:
    """Where the two tables come from, and what identifies them."""

    read: Callable[[BadRows], Tables]
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    """The stamps of outside files from before they were hashed."""


def from_raw(ws: Workspace, dataset: str, selector: str | None = None) -> Origin:
    """The raw artifact of a data set, read by the source that its configuration names."""
    raw = ws.find(dataset, "raw", selector)
    values = raw.config["source"]
    source = registry.load("source", values["name"])
    config = validate(source.Config, "source", values)
    return Origin(lambda bad: source(config).read(raw.path, bad), inputs={"raw": raw})


def from_files(config: Logs.Config, interactions: Path, items: Path | None) -> Origin:
    """Your own files."""
    files = {"interactions": interactions} | ({"items": items} if items else {})
    for path in files.values():
        refuse_special(path)
        if not path.exists():
            raise DataError(f"There is no file {path}.")
    before = stamps(files.values())
    return Origin(
        lambda bad: Logs(config).read_files(interactions, items, bad),
        config={"source": config.model_dump(mode="json")},
        external={name: sha256_file(path) for name, path in files.items()},
        before=before,
    )


def preprocess(
    ws: Workspace, dataset: str, config: PreprocessConfig, origin: Origin, *, engine: str = "polars"
) -> tuple[Plan, Callable[[], Artifact]]:
    """The plan of the data artifact, and the work that makes it.

    ``engine`` runs the work and changes nothing in what it makes. The work raises :class:`DataError` for bad
    lines (unless skipped), an empty k-core, a named field that is absent, and a split by time where there are no times.
    """
    settings = {"preprocess": config.model_dump(mode="json"), **origin.config}
    plan = Plan(dataset, "data", label_of(config), VERSION, settings, origin.inputs, origin.external)

    def work() -> Artifact:
        with ws.build(plan) as draft:
            make_tables(draft, config, origin, engine)
        return ws.made(plan)

    return plan, work


def label_of(config: PreprocessConfig) -> str:
    """What the artifact is called: k-core, split and, where ties are shuffled, their seed."""
    ties = "" if config.shuffle_ties is None else f"-ties{config.shuffle_ties}"
    return f"k{config.k_core}-{'loo' if config.split == 'leave-one-out' else 'time'}{ties}"


def make_tables(draft: Draft, config: PreprocessConfig, origin: Origin, engine_name: str) -> None:
    """Read, filter, number, split and write; the statistics go to the draft's result."""
    bad = BadRows(skip=config.skip_bad_rows)
    tables = origin.read(bad)
    scratch = draft.path / "scratch"
    scratch.mkdir()
    engine = open_engine(engine_name, scratch)
    spool = Spool.of(tables.interactions, scratch / "log.parquet")
    refuse_changed(origin.before)  # the key is of what was hashed
    bad.check()
    if bad.count:
        console.warn(f"{bad.count:,} bad line(s) left out. The first: {bad.first}.")
    log = engine.scan(spool.path)
    times = not (spool.times_are_rows or split.times_are_positions(engine, log))
    if config.split == "time" and spool.rows and not times:
        raise DataError(
            "The times of this data set are positions (each user's begin at 0 or 1, or they number the "
            "rows), so it cannot be split by time.",
            hint="Use --split leave-one-out, or name a column of real times with --time-col",
        )
    if config.shuffle_ties is not None and spool.times_are_rows:
        raise DataError(
            "The times of this data set number the rows, so no two are equal and there are no ties to shuffle.",
            hint="Name a column of real times with --time-col, or leave --shuffle-ties out",
        )
    repeated = assign_ids.repeated(engine, spool)
    source = assign_ids.without_repeated(engine, spool) if config.drop_duplicates and repeated else spool.path
    core = k_core(engine, source, config.k_core)
    user_labels, item_labels = (assign_ids.first_seen(engine, core, side, spool.by) for side in ("user", "item"))
    users, items = _named("user", spool.users.texts(user_labels)), _named("item", spool.items.texts(item_labels))
    ordered = assign_ids.ordered(engine, core, user_labels, item_labels, spool.by, ties=config.shuffle_ties)
    split_users, bounds = divided(engine, ordered, config)
    user_U = np.empty(users.height, USER)
    for name in USER.names or ():
        user_U[name] = split_users[name].to_numpy()
    train_count_I = write_interactions(draft.path, batches(ordered), user_U, items.height, times=times)

    texts, names, metadata = describe(items, tables.items)
    attributes, attribute_ids = number_attributes(names)
    fields, absent = choose_fields(texts, config.fields)
    described = items.with_columns(
        texts["title"], joined(texts, fields), attribute_ids, pl.Series("train_count", train_count_I)
    )
    split_users = users.join(split_users, on="user", maintain_order="left")
    written = {"users": (split_users, schema.USERS), "items": (described, schema.ITEMS)}
    for name, (table, columns) in (written | {"attributes": (attributes, schema.ATTRIBUTES)}).items():
        arrow = table.select(columns.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        schema.write_table(arrow, draft.path / f"{name}.parquet", columns)
    read = {f"{side}s_read": assign_ids.distinct(engine, spool, side) for side in ("user", "item")}
    shutil.rmtree(scratch)
    interactions = int(user_U["length"].sum())
    draft.result = {
        "users": users.height,
        "items": items.height,
        "interactions": interactions,
        "mean_length": interactions / users.height,
        "density": interactions / users.height / items.height,
        "with_text": float((described["text"] != "").mean()),
        "attributes": attributes.height,
        "valid_users": int((user_U["valid_at"] >= 0).sum()),
        "test_users": int((user_U["test_at"] >= 0).sum()),
        "interactions_read": spool.rows,
        "times": times,
        "duplicates": repeated,
        "bad_rows": bad.count,
        "bad_rows_by_reason": bad.by_reason,
        "bad_rows_first": bad.first,
        "fields": list(fields),
        "fields_absent": absent,
    }
    draft.result |= read | metadata | bounds
    report(draft.result)


def _named(name: str, raw_ids: pl.Series) -> pl.DataFrame:
    """``name`` (ids from 1) and ``raw_id``."""
    return pl.DataFrame({name: np.arange(1, len(raw_ids) + 1), "raw_id": raw_ids})


def divided(engine: Engine, ordered: Path, config: PreprocessConfig) -> tuple[pl.DataFrame, dict[str, int]]:
    """The users' table without raw ids, and the times (in seconds) of a split by time."""
    interactions = engine.scan(ordered)
    if config.split == "leave-one-out":
        return split.leave_one_out(engine, interactions), {}
    bounds = {
        name: split.seconds_of(engine, getattr(config, name), interactions, f"preprocess.{name}")
        for name in ("valid_from", "test_from")
    }
    if bounds["valid_from"] >= bounds["test_from"]:
        raise DataError(
            f"The validation period begins at {bounds['valid_from']} and the test period at "
            f"{bounds['test_from']} (seconds): there is nothing between them.",
            hint="Choose others with --valid-from and --test-from",
        )
    return split.by_time(engine, interactions, **bounds), bounds


def describe(items: pl.DataFrame, metadata: pl.LazyFrame | None) -> tuple[pl.DataFrame, pl.Series, dict[str, int]]:
    """For each item its cleaned text fields, one column each, and its attributes' names; and two counts."""
    found = pl.DataFrame(schema={"raw_id": pl.String, "title": pl.String, "attributes": pl.List(pl.String)})
    if metadata is not None:
        found = metadata.collect()
    wanted = items.select("raw_id")
    known = found.join(wanted, on="raw_id", how="semi")
    counts = {
        "items_without_metadata": items.height - known.height,
        "metadata_without_interactions": found.height - known.height,
    }
    if metadata is not None and known.is_empty():
        there = f"they look like '{found['raw_id'][0]}'" if found.height else "there is none"
        ours = items["raw_id"][0]
        console.warn(f"No item is described: the log's ids look like '{ours}', in the items file {there}.")
    described = wanted.join(known, on="raw_id", how="left", maintain_order="left").drop("raw_id")
    texts = described.drop("attributes")
    return texts.select(clean(column) for column in texts), described["attributes"], counts


def number_attributes(names: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """``attribute, name`` (ids from 1, by first appearance), and the ids of each item as a list.

    Args:
        names: for each item a list such as ``["brand: Canon", "category: Lenses"]``, or null.
    """
    pairs = pl.DataFrame({"name": names}).with_row_index("place").explode("name").drop_nulls()
    pairs = pairs.with_columns(clean(pairs["name"])).unique(maintain_order=True)
    known = pairs.select("name").unique(maintain_order=True)
    known = known.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("attribute"), "name")
    lists = pairs.join(known, on="name", maintain_order="left").group_by("place").agg(attributes="attribute")
    places = pl.DataFrame({"place": pl.int_range(len(names), dtype=pl.UInt32, eager=True)})
    lists = places.join(lists, on="place", how="left", maintain_order="left")
    return known, lists.select(pl.col("attributes").fill_null([])).to_series()


def choose_fields(texts: pl.DataFrame, asked: tuple[str, ...] | None) -> tuple[list[str], list[str]]:
    """The text fields to join and the default ones that are absent (no column, or nothing in it)."""
    there = [column.name for column in texts if column.fill_null("").ne("").any()]
    wanted = DEFAULT_FIELDS if asked is None else asked
    absent = [name for name in wanted if name not in there]
    if absent and asked is not None:
        raise DataError(
            f"There is no text field '{absent[0]}' in this data set.",
            hint=f"--fields {','.join(there)}" if there else "Give an items file, or leave --fields out",
        )
    if there and len(absent) == len(wanted):
        console.warn(
            f"Item texts are empty: this data set has no {', '.join(absent)}. Try: --fields {','.join(map(str, there))}"
        )
    elif absent and there:
        console.say(f"This data set has no {', '.join(absent)}; item texts are made of the others.")
    return [name for name in wanted if name in there], absent


def report(result: Mapping[str, Any]) -> None:
    """The statistics as a table."""
    times = ("valid_from", "test_from")
    rows: list[tuple[str, Any]] = [
        (name.replace("_", " "), split.date_of(value) if name in times else value)
        for name, value in result.items()
        if isinstance(value, (int, float)) and value is not False
    ]
    rows += [(f"bad rows: {reason}", count) for reason, count in result["bad_rows_by_reason"].items()]
    rows += [("first bad row", result["bad_rows_first"]), ("text of", ", ".join(result["fields"]) or None)]
    console.table("", ("data", "value"), [(name, console.cell(value)) for name, value in rows])
