"""Completion of the shell, and the examples in the help of each command."""

import shlex

import pytest
import typer
from shop import genrec

from genrec_cli.cli import app, complete
from genrec_cli.cli.common import COMMANDS
from genrec_cli.cli.examples import EXAMPLES
from genrec_cli.registry import TABLE


def test_names_are_completed(tmp_path, monkeypatch):
    monkeypatch.setenv("GENREC_ROOT", str(tmp_path))
    monkeypatch.delenv("GENREC_DATASET", raising=False)
    for name in ("shop/runs/rpg-s0-12345678", "shop/runs/.rpg-s1-12345678.making", "books/codes/opq-12345678"):
        (tmp_path / name).mkdir(parents=True)
    assert complete.models("m") == sorted(name for name in TABLE["model"] if name.startswith("m"))
    assert "quickstart" in complete.recipes("") and "mhl-table2" in complete.sweeps("mhl")
    assert complete.runs("") == ["rpg-s0-12345678"] and complete.runs("a,r") == ["a,rpg-s0-12345678"]
    assert complete.artifacts("opq") == ["opq-12345678"] and complete.artifacts("runs/r") == ["runs/rpg-s0-12345678"]
    monkeypatch.setenv("GENREC_DATASET", "books")
    assert complete.runs("") == []


def test_every_command_has_examples_that_its_parser_accepts():
    assert EXAMPLES.keys() == COMMANDS.keys()
    group = typer.main.get_command(app)
    for name, lines in EXAMPLES.items():
        for line in lines:
            first, command, *words = shlex.split(line.partition(">")[0])
            assert (first, command) == ("genrec", name)
            group.commands[name].make_context(name, words)


@pytest.mark.parametrize("name", ["preprocess", "gc"])
def test_the_help_shows_the_examples(tmp_path, name):
    out = genrec(tmp_path, name, "--help").out
    assert "Examples:" in out and all(line in out for line in EXAMPLES[name])
