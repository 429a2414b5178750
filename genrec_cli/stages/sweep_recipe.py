"""A sweep as data: ``[sweep]`` of a TOML file, expanded to cells. A cell is one run: a row with one seed.

    [sweep]
    title = "Temperature and rate"
    seeds = [0, 1, 2]

    [sweep.grid]                                # every combination ...
    model.temperature = [0.03, 0.07]
    train.lr = [5e-4, 1e-3]

    [[sweep.run]]                               # ... with each of these rows, if there are any
    name = "rpg"
    set = { model.name = "rpg", curriculum.preset = "inf" }

The other sections of the file ([model], [train], [tokenizer], ...) are shared by all. Settings win in the order
of the file < ``[sweep.on.DATASET]`` < ``--config`` < ``--set`` < the cell's own. A setting that varies between rows
cannot be set for all of them.
"""

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from genrec_cli.config import READS, Layer, Natural, Section, did_you_mean, merge, validate
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.stages.experiment import SWEEPS, layer_of, read_file

SECTIONS = READS["sweep"][1:]
"""What the cells of a sweep read: all but ``[sweep]`` itself."""
MOST_CELLS = 10_000
LONGEST_NAME = 200
"""Bytes of a sweep's name, which begins the name of a folder."""
BY_OPTION = {("train", "seed"): "--seeds 0,1,2", ("evaluate", "split"): "--split valid|test"}
"""Settings that have an option of their own, for all cells."""


class RunRow(Section):
    """One ``[[sweep.run]]``: a row of the table."""

    name: str
    set: dict[str, Any] = Field(default_factory=dict)
    """Its own settings: ``{ curriculum.preset = "inf" }``."""


class Place(Section):
    """``[sweep.on.DATASET]``: what holds on one data set only."""

    set: dict[str, Any] = Field(default_factory=dict)
    expected: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Name of a row -> the published numbers, one for each column."""


class SweepConfig(Section):
    """The table ``[sweep]``."""

    title: str
    dated: str = ""
    """The day on which the published facts were read."""
    cite: tuple[str, ...] = ()
    """Where the settings and the expected numbers come from."""
    seeds: tuple[Natural, ...] = Field((0,), min_length=1)
    """Every row is trained with each of these."""
    columns: tuple[str, ...] = Field(("Recall@5", "NDCG@5", "Recall@10", "NDCG@10"), min_length=1)
    """Metrics (of codes: code_NDCG@10); costs: minutes, step_ms, epochs, best_epoch, peak_memory_mib, parameters;
    what quality.json says of the codes: colliding_fraction, mean_entropy, neighbours_kept_by_decoded, ...; and of the
    search: users_per_second, valid_fraction, recall_against_exact."""
    grid: dict[str, Any] = Field(default_factory=dict)
    """section.key -> values to try, in every combination."""
    run: tuple[RunRow, ...] = ()
    """Rows by name."""
    on: dict[str, Place] = Field(default_factory=dict)
    """What holds on one data set only: settings, published numbers."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, before anything is resolved."""

    row: str
    seed: int
    layers: dict[str, dict[str, Any]]
    """Settings, section by section; ``evaluate`` among them."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read and expanded for one data set."""

    name: str
    config: SweepConfig
    expected: Mapping[str, tuple[float, ...]]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    varied: frozenset[tuple[str, str]]
    """(section, key) of every setting that differs between rows."""


def read_sweep(name: str, given: Layer, dataset: str) -> Sweep:
    """A sweep by name or path. Errors name the file and the row.

    Args:
        given: ``--config``, ``--set`` and named options, ``sweep`` among the sections.
    """
    path, content = read_file(name, SWEEPS, "sweep")
    if (size := len(os.fsencode(path.stem))) > LONGEST_NAME:
        raise UsageError(f"The name of {path} has {size} bytes; a sweep's has at most {LONGEST_NAME}.")
    try:
        head = merge(content, given)["sweep"]
        config = validate(SweepConfig, "sweep", head)
        place = config.on.get(dataset, Place())
        own = [(row, _layer(settings, f"the row '{row}'")) for row, settings in _rows(config, head.get("grid", {}))]
        shared = merge(content, _layer(place.set, f"sweep.on.{dataset}"), given)
        _check(config, place, [row for row, _ in own])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    varied = frozenset((section, key) for _, layer in own for section in layer for key in layer[section])
    _refuse(given, varied, shared)
    base = {section: shared[section] for section in SECTIONS if section in shared}
    cells = tuple(
        Cell(row, seed, merge(base, layer, {"train": {"seed": seed}})) for row, layer in own for seed in config.seeds
    )
    return Sweep(path.stem, config, place.expected, tuple(row for row, _ in own), cells, varied)


def _rows(config: SweepConfig, grid: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Names and settings of all rows: each run with each point of the grid, whose axes have the order of the file."""
    layer = _layer(grid, "sweep.grid")
    axes = {f"{section}.{key}": values for section, keys in layer.items() for key, values in keys.items()}
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.grid: {axis} must be a list of values to try, not {values!r}.")
    count = math.prod(map(len, axes.values())) * max(len(config.run), 1) * len(config.seeds)
    if count > MOST_CELLS:
        hint = "Fewer values, rows or seeds; or several sweeps, whose finished runs are shared"
        raise ConfigError(f"the sweep has {count:,} cells; at most {MOST_CELLS:,} are allowed.", hint=hint)
    short = [axis.partition(".")[2] for axis in axes]
    words = short if len(set(short)) == len(short) else list(axes)
    for run in config.run or (RunRow(name=""),):
        for point in itertools.product(*axes.values()):
            named = [v if isinstance(v, str) else f"{word} {v}" for word, v in zip(words, point, strict=True)]
            settings = merge(
                _layer(run.set, f"the row '{run.name}'"), _layer(dict(zip(axes, point, strict=True)), "grid")
            )
            yield ", ".join([*([run.name] if run.name else []), *named]), settings


def _layer(settings: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    return layer_of(settings, SECTIONS, f"{where}: a sweep")


def _check(config: SweepConfig, place: Place, rows: list[str]) -> None:
    if not rows or rows == [""]:
        raise ConfigError("a sweep needs [[sweep.run]] rows or a [sweep.grid].")
    if len(set(rows)) < len(rows):
        double = next(row for row in rows if rows.count(row) > 1)
        raise ConfigError(f"two rows are called '{double}'.")
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"a seed stands twice in sweep.seeds: {list(config.seeds)}.")
    for row, numbers in place.expected.items():
        if row not in rows:
            raise ConfigError(f"numbers are expected of '{row}', which is no row.{did_you_mean(row, rows)}")
        if len(numbers) != len(config.columns):
            raise ConfigError(f"'{row}' expects {len(numbers)} numbers for {len(config.columns)} columns.")


def _refuse(given: Layer, varied: frozenset[tuple[str, str]], shared: Layer) -> None:
    """Refuse settings that would contradict the names of the rows, the seeds or the split."""
    for section, key in sorted(varied):
        if (section, key) in BY_OPTION:
            raise UsageError(f"A row cannot set {section}.{key}.", hint=BY_OPTION[section, key])
        if key in given.get(section, {}):
            message = f"{section}.{key} is what this sweep varies; it cannot be set for all rows."
            raise UsageError(message, hint="Write a sweep of your own: FILE.toml")
    for (section, key), option in BY_OPTION.items():
        if key in shared.get(section, {}):
            raise UsageError(f"A sweep does not take {section}.{key} from settings.", hint=option)
