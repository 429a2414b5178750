"""Recipes: a TOML file whose ``[recipe]`` lists steps, and whose other sections are their settings.

``genrec run`` types the steps one after the other as a user would, with the recipe itself as ``--config``.
It adds nothing of its own to what a stage does: every printed command can be copied and run alone, and a
second run finds every stage up to date.
"""

import io
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from genrec_cli import console
from genrec_cli.artifacts import MANIFEST, STAGE_OF, Artifact, Workspace
from genrec_cli.config import Section, did_you_mean, merge, parse_set, read_document, read_toml, validate
from genrec_cli.errors import ConfigError, Interrupted, UsageError

FOLDER = Path(__file__).resolve().parent.parent / "recipes"

READS = {
    "download": ("source",),
    "preprocess": ("preprocess",),
    "tokenize": ("encoder", "tokenizer"),
    "train": ("train", "model", "curriculum", "noise", "decoder"),
    "evaluate": ("evaluate", "decoder"),
    "recommend": ("decoder",),
    "case-study": ("case_study",),
}
"""Command -> the sections it reads, so that ``--set`` of a whole recipe reaches the steps it is meant for."""

COLUMNS = ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10", "MRR@10")


class RecipeHead(Section):
    """The table ``[recipe]``."""

    title: str
    dataset: str
    """The data set it is written for; ``--dataset`` runs it on another."""
    dated: str
    """The day on which the published facts were read, as 2026-11-22."""
    cite: tuple[str, ...] = ()
    """Where the settings and the expected numbers come from."""
    expected: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Model -> metric -> the published number."""
    steps: tuple[str, ...]
    """Command lines without the word ``genrec``."""
    next: tuple[str, ...] = ()
    """Command lines to show at the end, for the reader; ``{at}`` becomes the data set's options."""


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and checked."""

    name: str
    path: Path
    head: RecipeHead
    steps: tuple[tuple[str, ...], ...]


@dataclass
class Chain:
    """What the steps of one call have made so far."""

    by_kind: dict[str, Artifact] = field(default_factory=dict)
    by_label: dict[str, Artifact] = field(default_factory=dict)
    """Runs by their label, and by the name that the recipe has for them."""
    runs: dict[str, Artifact] = field(default_factory=dict)
    """Runs by the name of their folder."""
    evals: list[Artifact] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, artifact: Artifact) -> None:
        """Remember an artifact, so that later steps use this very one even if others lie beside it."""
        self.by_kind[artifact.kind] = artifact
        if artifact.kind == "runs":
            self.by_label[artifact.path.name.rpartition("-")[0]] = artifact
            self.runs[artifact.path.name] = artifact
        if artifact.kind == "eval":
            self.evals.append(artifact)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """A recipe by name or path, checked before anything runs. Errors name the file and the step."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if name.endswith(".toml") and not path.is_file():
        raise UsageError(f"There is no recipe file {path}.", hint="genrec list recipes")
    if not name.endswith(".toml") and name not in recipe_names():
        raise UsageError(
            f"There is no recipe '{name}'.{did_you_mean(name, recipe_names())}",
            hint=f"genrec list recipes    shows all: {', '.join(recipe_names())}; or give a FILE.toml",
        )
    head = read_document(path).get("recipe")
    if not isinstance(head, dict):
        raise ConfigError(f"{path} has no [recipe] table.", hint="To use it with one stage: --config FILE.toml")
    try:
        checked = validate(RecipeHead, "recipe", head)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    return Recipe(path.stem, path, checked, tuple(_words(path, step) for step in checked.steps))


def reads(words: Sequence[str]) -> tuple[str, ...]:
    """The sections that a step reads: ``preprocess`` of your own files also takes their columns, a model its own."""
    if words[0] == "train" and "--model" in words:
        from genrec_cli.stages.train import sections_of

        return tuple(sections_of(words[words.index("--model") + 1]))
    return (*READS[words[0]], *(("source",) if "--interactions" in words else ()))


def commands(
    recipe: Recipe, shared: Sequence[str], assigned: Iterable[str] = (), from_dir: Path | None = None
) -> list[list[str]]:
    """The command line of every step, with the shared options and each ``--set`` where it is read."""
    section_of = {text: next(iter(parse_set([text]))) for text in assigned}
    for text, section in section_of.items():
        if not any(section in reads(words) for words in recipe.steps):
            raise UsageError(f"No step of '{recipe.name}' reads the section '{section}' (--set {text}).")
    if from_dir is not None and not any(words[0] == "download" for words in recipe.steps):
        raise UsageError(f"No step of '{recipe.name}' downloads anything.", hint="Leave --from-dir out")
    lines = []
    for words in recipe.steps:
        line = [*words, *shared]
        for text, section in section_of.items():
            if section in reads(words):
                line += ["--set", text]
        if words[0] == "download" and from_dir is not None:
            line += ["--from-dir", str(from_dir)]
        lines.append(line)
    return lines


def run_recipe(
    ws: Workspace,
    recipe: Recipe,
    lines: Sequence[Sequence[str]],
    invoke: Callable[[list[str]], int],
    takes: Callable[[str], frozenset[str]],
) -> tuple[int, Chain]:
    """Run the steps in order; stop at the first that fails.

    Args:
        invoke: runs one command line and returns its exit code.
        takes: the long options that a command knows.

    Returns: the exit code of the last step that ran, and what was made.
    """
    chain = Chain()
    for number, line in enumerate(lines, 1):
        words = pinned(line, chain, takes(line[0]))
        console.say(f"\n[{number}/{len(lines)}] {folded(words, len(recipe.steps[number - 1]))}")
        as_json = console.json_mode()
        out = _Listener(None if as_json else sys.stdout)
        with redirect_stdout(out):
            code = invoke(words)
        if code:
            step = f"step {number} of {len(lines)} of '{recipe.name}'"
            if code == Interrupted.exit_code:
                console.say(f"{step} was stopped; the same 'genrec run' goes on from there", level=0)
            else:
                console.warn(f"{step} failed with exit code {code}; once mended, the same 'genrec run' goes on there")
            return code, chain
        for printed in out.results(as_json):
            chain.outputs.append({"command": words[0], **printed})
            folder = Path(str(printed.get("path", "")))
            artifact = ws.read(folder) if (folder / MANIFEST).is_file() else None
            if artifact is not None:
                chain.add(artifact)
                if artifact.kind == "runs":
                    chain.by_label[name_in_recipe(recipe, recipe.steps[number - 1])] = artifact
    return 0, chain


def name_in_recipe(recipe: Recipe, step: Sequence[str]) -> str:
    """What later steps call the run of a train step: the label that the recipe alone gives it.

    With another seed (``--set train.seed=1`` or ``GENREC_SEED=1``) the run has another label.
    """
    assigned, sections = parse_set(_given(step, "--set")), read_toml(recipe.path)
    named = {"model": {"name": _last(step, "--model")}, "train": {"seed": _last(step, "--seed")}}
    layers = merge(sections, assigned, named)
    return _last(step, "--label") or f"{layers['model'].get('name', 'mhl')}-s{layers['train'].get('seed', 0)}"


def folded(words: Sequence[str], own: int) -> str:
    """A command line to read and to copy: the first ``own`` words, and below them what every step is given."""
    first = f"genrec {shlex.join(words[:own])}"
    return f"{first} \\\n        {shlex.join(words[own:])}" if len(words) > own else first


def pinned(line: Sequence[str], chain: Chain, options: frozenset[str]) -> list[str]:
    """The command line with inputs named in full: a recipe uses what it made, whatever else lies there."""
    makes_runs = line[0] == STAGE_OF["runs"]
    runs = {} if makes_runs else {label: run.path.name for label, run in chain.by_label.items()}
    parts = (word.rpartition("=") for word in line[1:])  # --run LABEL and --run=LABEL
    words = [line[0], *(option + equals + runs.get(value, value) for option, equals, value in parts)]
    given = {word.partition("=")[0] for word in line}
    for kind, artifact in chain.by_kind.items():
        option = "--run" if kind == "runs" else f"--{kind}"
        if option in options - given and STAGE_OF[kind] != line[0]:
            words += [option, artifact.path.name]
    return words


def rows(recipe: Recipe, chain: Chain) -> list[dict[str, Any]]:
    """The closing table: a row an evaluation; below those of a model what was published on this data set.

    Beside the metrics a row has ``users`` measured, and ``epochs`` and ``train_seconds`` of the run.
    """
    table: list[dict[str, Any]] = []
    for (model, dataset), group in itertools.groupby(chain.evals, key=lambda e: (_model(e), e.dataset)):
        for artifact in group:
            result = artifact.result
            approximate = "" if result.get("decoder") in (None, "exhaustive") else f", {result['decoder']}"
            run = chain.runs.get(_run_name(artifact))
            trained = run.result if run else {}
            table.append(
                _row(_run_label(artifact) + approximate, result.get("metrics") or {})
                | {"users": result.get("users")}
                | {"epochs": trained.get("epochs"), "train_seconds": trained.get("seconds")}
            )
        if model in recipe.head.expected and dataset == recipe.head.dataset:
            table.append(_row(f"{model}, published", recipe.head.expected[model]))
    return table


def _row(model: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    unknown = dict.fromkeys(("users", "epochs", "train_seconds"))
    return {"model": model, **{name: metrics.get(name) for name in COLUMNS}, **unknown}


def duration(seconds: float | None) -> str:
    """``45 s``, ``2 min 05 s`` or ``3 h 07 min``; a dash where there is none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def aligned(lines: Iterable[str]) -> list[str]:
    """Command lines with their ``# comments`` one below the other."""
    parts = [line.partition(" #") for line in lines]
    width = max((len(words.rstrip()) for words, _, _ in parts), default=0)
    return [f"{words.rstrip():<{width}}   #{comment}" if mark else words for words, mark, comment in parts]


def _model(evaluation: Artifact) -> str:
    return str(evaluation.result.get("model") or _run_label(evaluation).rpartition("-s")[0])


def _run_name(evaluation: Artifact) -> str:
    """``rpg-s0-1ac1a230``: the folder of the run that an evaluation is of, or its own without one."""
    paths = (Path(facts["path"]) for facts in evaluation.manifest["inputs"].values())
    return next((path.name for path in paths if path.parent.name == "runs"), evaluation.path.name)


def _run_label(evaluation: Artifact) -> str:
    """``rpg-s0``: the label of that run."""
    name = _run_name(evaluation)
    return name if name == evaluation.path.name else name.rpartition("-")[0]


class _Listener(io.TextIOBase):
    """A stdout that passes on what a step prints and remembers it, to learn which artifact was made."""

    def __init__(self, through: Any) -> None:
        self._through = through
        self._text = io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._through, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._through and self._through.isatty())

    def write(self, text: str) -> int:
        self._text.write(text)
        if self._through:
            self._through.write(text)
        return len(text)

    def flush(self) -> None:
        if self._through:
            self._through.flush()

    def results(self, as_json: bool) -> list[dict[str, Any]]:
        """JSON objects with ``as_json``; otherwise ``{"path": ...}`` for each line that is an artifact."""
        lines = [line.strip() for line in self._text.getvalue().splitlines()]
        if as_json:
            return [json.loads(line) for line in lines if line.startswith("{")]
        return [{"path": line} for line in lines if line and (Path(line) / MANIFEST).is_file()]


def _given(words: Sequence[str], option: str) -> list[str]:
    """The values that an option has in a command line, as ``--option value`` or ``--option=value``."""
    pairs = ((word.partition("="), after) for word, after in zip(words, (*words[1:], ""), strict=True))
    return [value if equals else after for (name, equals, value), after in pairs if name == option]


def _last(words: Sequence[str], option: str) -> str | None:
    return next(reversed(_given(words, option)), None)


def _words(path: Path, step: str) -> tuple[str, ...]:
    """One step, split like a shell does, and checked."""
    try:
        words = shlex.split(step)
    except ValueError as error:
        raise ConfigError(f"{path}: the step '{step}' cannot be split into words: {error}.") from None
    if not words or words[0] not in READS:
        name = words[0] if words else ""
        raise ConfigError(
            f"{path}: a step cannot begin with '{name}'.{did_you_mean(name, READS)}",
            hint=f"Steps: {', '.join(READS)}",
        )
    for word in words:
        if word.partition("=")[0] in ("--dataset", "--root", "--config", "--json", "--dry-run"):
            raise ConfigError(f"{path}: the step '{step}' must leave {word} to 'genrec run'.")
    return tuple(words)
