"""Sweeps: ``[sweep]`` of a TOML file, expanded to cells. A cell is one run: a row with one seed.

The rows are every combination of the values in ``[sweep.grid]``, with each ``[[sweep.run]]`` (docs/analyses.md has an
example). The other sections of the file are settings of all cells. Settings win in the order file <
``[sweep.on.DATASET]`` < ``--config`` < ``--set`` < row. A setting that varies between rows cannot be set for all.
"""

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from genrec_cli.config import READS, Layer, Natural, Section, did_you_mean, merge, validate
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.stages.recipe import SWEEPS, read_file
from genrec_cli.stages.recipe_step import layer_of

SECTIONS = READS["sweep"][1:]
"""The sections that a cell reads."""
MAX_CELLS = 10_000
MAX_NAME_BYTES = 200
"""Limit of a sweep's name, which is part of a folder name."""
BY_OPTION = {("train", "seed"): "--seeds 0,1,2", ("evaluate", "split"): "--split valid|test"}
"""Settings that are set by an option only, for all cells."""


class RunRow(Section):
    """One ``[[sweep.run]]``: a row of the table."""

    name: str
    init_from: str | None = None
    """A run whose weights are the start of this row."""
    set: dict[str, Any] = Field(default_factory=dict)


class Place(Section):
    """``[sweep.on.DATASET]``: settings and published numbers of one data set."""

    set: dict[str, Any] = Field(default_factory=dict)
    expected: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Row -> the published numbers, one per column."""


class SweepConfig(Section):
    """The table ``[sweep]``."""

    title: str
    dated: str = ""
    """The day on which the published numbers were read."""
    cite: tuple[str, ...] = ()
    """Sources of the settings and of the published numbers."""
    seeds: tuple[Natural, ...] = Field((0,), min_length=1)
    """The seeds of every row."""
    columns: tuple[str, ...] = Field(("Recall@5", "NDCG@5", "Recall@10", "NDCG@10"), min_length=1)
    """Metrics (of codes: code_NDCG@10); costs: minutes, step_ms, epochs, best_epoch, peak_memory_mib, parameters;
    quality of the codes from quality.json: colliding_fraction, mean_entropy, neighbours_kept_by_decoded, ...; and of
    the search: users_per_second, valid_fraction, recall_against_exact."""
    grid: dict[str, Any] = Field(default_factory=dict)
    """section.key -> values to try, in every combination."""
    run: tuple[RunRow, ...] = ()
    on: dict[str, Place] = Field(default_factory=dict)
    """Data set -> its settings and published numbers."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep, before its inputs are found."""

    row: str
    seed: int
    layers: dict[str, dict[str, Any]]
    """Section -> settings, with those of ``evaluate``."""
    own: Layer = field(default_factory=dict)
    """The settings of the row or the trial itself, a part of ``layers``."""
    init_from: str | None = None
    """A run whose weights are the start."""

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.layers.get("model", {}).get("name") or "mhl")


@dataclass(frozen=True)
class Sweep:
    """A sweep, expanded for one data set."""

    name: str
    config: SweepConfig
    expected: Mapping[str, tuple[float, ...]]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]
    varied: frozenset[tuple[str, str]]
    """(section, key) of every setting that differs between rows."""


def read_sweep(name: str, given: Layer, dataset: str) -> Sweep:
    """A sweep by name or path; ``given`` are the settings of the command. Errors name the file and the row."""
    path, content = read_file(name, SWEEPS, "sweep")
    if (size := len(os.fsencode(path.stem))) > MAX_NAME_BYTES:
        raise UsageError(f"The name of {path} has {size} bytes; the name of a sweep has at most {MAX_NAME_BYTES}.")
    try:
        head = merge(content, given)["sweep"]
        config = validate(SweepConfig, "sweep", head)
        place = config.on.get(dataset, Place())
        found = list(_rows(config, head.get("grid", {})))
        rows = [(name, layer) for name, layer, _ in found]
        shared = merge(content, _layer(place.set, f"sweep.on.{dataset}"), given)
        _check(config, place, [name for name, _ in rows])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    varied = frozenset((section, key) for _, layer in rows for section in layer for key in layer[section])
    _refuse(given, varied, shared)
    base = {section: shared[section] for section in SECTIONS if section in shared}
    runs = itertools.product(found, config.seeds)
    cells = tuple(
        Cell(row, seed, merge(base, layer, {"train": {"seed": seed}}), layer, start)
        for (row, layer, start), seed in runs
    )
    return Sweep(path.stem, config, place.expected, tuple(name for name, _ in rows), cells, varied)


def _rows(config: SweepConfig, grid: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, dict[str, Any]], str | None]]:
    """Names, settings and starts of all rows: each run with each point of the grid, in the order of the file."""
    sections = _layer(grid, "sweep.grid").items()
    axes = {f"{section}.{key}": values for section, keys in sections for key, values in keys.items()}
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.grid: {axis} must be a list of values to try, not {values!r}.")
    count = math.prod(map(len, axes.values())) * max(len(config.run), 1) * len(config.seeds)
    if count > MAX_CELLS:
        hint = "Fewer values, rows or seeds; or several sweeps, which share finished runs"
        raise ConfigError(f"the sweep has {count:,} cells; at most {MAX_CELLS:,} are allowed.", hint=hint)
    short = [axis.partition(".")[2] for axis in axes]
    words = short if len(set(short)) == len(short) else list(axes)
    for run, point in itertools.product(config.run or (RunRow(name=""),), itertools.product(*axes.values())):
        named = [v if isinstance(v, str) else f"{word} {v}" for word, v in zip(words, point, strict=True)]
        values = _layer(dict(zip(axes, point, strict=True)), "grid")
        own = merge(_layer(run.set, f"the row '{run.name}'"), values)
        yield ", ".join(filter(None, [run.name, *named])), own, run.init_from


def _layer(settings: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    return layer_of(settings, SECTIONS, f"{where}: a sweep")


def _check(config: SweepConfig, place: Place, rows: list[str]) -> None:
    if not rows or rows == [""]:
        raise ConfigError("a sweep needs [[sweep.run]] rows or a [sweep.grid].")
    if doubled := [row for row, count in Counter(rows).items() if count > 1]:
        raise ConfigError(f"two rows are called '{doubled[0]}'.")
    if len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"sweep.seeds has a seed twice: {list(config.seeds)}.")
    for row, numbers in place.expected.items():
        if row not in rows:
            raise ConfigError(f"numbers are expected of '{row}', which is no row.{did_you_mean(row, rows)}")
        if len(numbers) != len(config.columns):
            raise ConfigError(f"'{row}' expects {len(numbers)} numbers for {len(config.columns)} columns.")


def _refuse(given: Layer, varied: frozenset[tuple[str, str]], shared: Layer) -> None:
    """Refuse settings that contradict the names of the rows, the seeds or the split."""
    for section, key in sorted(varied):
        if (section, key) in BY_OPTION:
            raise UsageError(f"A row cannot set {section}.{key}.", hint=BY_OPTION[section, key])
        if key in given.get(section, {}):
            message = f"{section}.{key} is what this sweep varies; it cannot be set for all rows."
            raise UsageError(message, hint="Write a sweep of your own: FILE.toml")
    for (section, key), option in BY_OPTION.items():
        if key in shared.get(section, {}):
            raise UsageError(f"A sweep does not take {section}.{key} from settings.", hint=option)
