"""Writes docs/cli.md and docs/settings.md from the program itself.

    python docs/make_cli.py

A test fails while a page differs from what this writes.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from typer.main import get_group

from genrec_cli import registry
from genrec_cli.cli import app
from genrec_cli.cli.common import PANEL
from genrec_cli.config import Section
from genrec_cli.curriculum.phases import CurriculumConfig, Law, Phase, Until
from genrec_cli.curriculum.target_masks import NoiseConfig
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.models.dense_side import DenseConfig
from genrec_cli.models.item_model import ItemConfig
from genrec_cli.stages.blend import BlendConfig
from genrec_cli.stages.case_study import CaseStudyConfig
from genrec_cli.stages.compare import CompareConfig
from genrec_cli.stages.evaluate import EvaluateConfig
from genrec_cli.stages.figures import FiguresConfig
from genrec_cli.stages.preprocess import PreprocessConfig
from genrec_cli.stages.reconstruct import ReconstructConfig
from genrec_cli.stages.report import ReportConfig
from genrec_cli.stages.tune_recipe import TuneConfig
from genrec_cli.tokenizers.behaviour import BehaviourConfig

HERE = Path(__file__).parent
INHERITED: dict[str, type[BaseModel]] = {
    "[model] of all models of items": ItemConfig,
    "[model] of models with a dense side": DenseConfig,
}
"""Settings that many models have; they are shown once."""
NOTE = "<!-- Written by docs/make_cli.py; change the program's help instead. -->\n"


def cli_page() -> str:
    """Every command with its arguments and options; the shared options once."""
    commands = get_group(app).commands
    parts = ["# Commands\n", NOTE, "Options that every command has stand [at the end](#common-options).\n"]
    for name, command in commands.items():
        own = [p for p in command.params if getattr(p, "rich_help_panel", None) != PANEL]
        arguments = [p for p in own if p.param_type_name == "argument"]
        usage = " ".join([name, *(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)])
        parts += [f"## genrec {name}\n", f"{command.help}\n", f"    genrec {usage} [OPTIONS]\n"]
        if own:
            parts.append(table(["option", "meaning", "variable"], map(row, own)))
    shared = [p for p in commands["train"].params if getattr(p, "rich_help_panel", None) == PANEL]
    parts += ["## Common options\n", table(["option", "meaning", "variable"], map(row, shared))]
    return "\n".join(parts)


def row(parameter: Any) -> list[str]:
    """One line of an option's table."""
    is_argument = parameter.param_type_name == "argument"
    names = parameter.name.upper() if is_argument else ", ".join(parameter.opts)
    meaning = parameter.help or ""
    if parameter.default not in (None, False, "") and "Default:" not in meaning:
        on = parameter.default is True and parameter.secondary_opts
        meaning += f" Default: `{parameter.opts[0]}`." if on else f" Default: {parameter.default}."
        names += f", {', '.join(on)}" if on else ""
    return [f"`{names}`", meaning, f"`{parameter.envvar}`" if parameter.envvar else ""]


def settings_page() -> str:
    """Every key that ``--set`` and TOML files take, from the sections' classes."""
    parts = [
        "# Settings\n",
        NOTE,
        "Each key can stand in a TOML file (`--config FILE`) under its section, or on the command line as\n"
        "`--set section.key=value`. The value is a TOML value; text without blanks needs no quotes. A key that does\n"
        "not exist or a value of another type is an error. Recipe < `--config` < `--set` < named options.\n",
    ]
    titles: dict[type[BaseModel], str] = {}
    for title, section in sections():
        above = next((base for base in section.__mro__ if base in titles), None)
        if title.startswith("[model]") and section is not Section:
            titles.setdefault(section, title)
        inherited = dict(row_of(above)) if above else {}
        rows = [row for name, row in row_of(section) if row != inherited.get(name)]
        head = plain(inspect.getdoc(section) or "") if section.__doc__ and rows else ""
        parts += [f"## {title}\n", *([f"{head}\n"] if head and title.split()[0] not in head else [])]
        if above:
            anchor = titles[above].replace("[", "").replace("]", "").replace(" ", "-")
            more = ", and these, which are new or have another default:" if rows else "."
            parts.append(f"The settings of [{titles[above].partition(' of ')[2]}](#{anchor}){more}\n")
        if rows or not above:
            parts.append(table(["key", "default", "meaning"], rows) if rows else "No settings.\n")
        parts += [f"{line}\n" for line in other_defaults(title)]
    return "\n".join(parts)


def row_of(section: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    """The name and the line of each field."""
    return ((name, [f"`{name}`", default(field), meaning(field)]) for name, field in fields(section))


def meaning(field: Any) -> str:
    """A field's docstring, and the values it takes where the docstring does not name them all."""
    text = plain(field.description or "")
    values = [value for part in (field.annotation, *get_args(field.annotation)) for value in literals(part)]
    return text if all(str(value) in text for value in values) else f"{text} One of: {', '.join(map(str, values))}."


def literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def other_defaults(title: str) -> Iterator[str]:
    """What a model changes in the defaults of other sections."""
    section, _, name = title.partition(" of ")
    model = section == "[model]" and name in registry.TABLE["model"]
    for other, values in registry.load("model", name).defaults.items() if model else ():
        changed = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in values.items())
        yield f"Defaults of its own in `[{other}]`: {changed}."


def plain(text: str) -> str:
    """A docstring's first paragraph as Markdown."""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`")


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Titles and classes in the order of the pipeline."""
    for kind in ("source", "encoder", "tokenizer", "model"):
        if kind == "encoder":
            yield "[preprocess]", PreprocessConfig
        if kind == "model":
            yield from INHERITED.items()
        for name in registry.TABLE[kind]:
            yield f"[{kind}] of {name}", registry.load(kind, name).Config
        if kind == "tokenizer":
            yield "[behaviour]", BehaviourConfig
    yield "[train]", TrainConfig
    yield "[curriculum]", CurriculumConfig
    yield "[[curriculum.phase]]", Phase
    yield "law of a phase", Law
    yield "until of a phase", Until
    yield "[noise]", NoiseConfig
    yield "[blend]", BlendConfig
    yield "[evaluate]", EvaluateConfig
    yield "[reconstruct]", ReconstructConfig
    for name in registry.TABLE["search"]:
        config = registry.load("search", name).Config
        if config.model_fields:
            yield f"[search] of {name}", config
    yield "[case_study]", CaseStudyConfig
    yield "[compare]", CompareConfig
    yield "[figures]", FiguresConfig
    yield "[report]", ReportConfig
    yield "[tune]", TuneConfig


def fields(section: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Fields without the name that the command line chooses by."""
    return ((name, field) for name, field in section.model_fields.items() if name != "name" or section is Phase)


def default(field: Any) -> str:
    """A default as TOML would write it; a dash for none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return "see below"
    return "-" if value is None else f"`{json.dumps(value)}`"


def table(columns: list[str], rows: Any) -> str:
    """A Markdown table; bars inside cells are escaped and line breaks become blanks."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in line) + " |\n" for line in lines)


PAGES = {"cli.md": cli_page, "settings.md": settings_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (HERE / page).write_text(write(), encoding="utf-8")
