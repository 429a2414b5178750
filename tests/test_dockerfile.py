"""The Dockerfile without a daemon: its sources, extras, ports and commands are those of the project."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_group

from genrec_cli.cli import app

HOUSE = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of each line, continued lines joined."""
    text = (HOUSE / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [(word, rest) for line in lines if line and line[0] != "#" for word, _, rest in [line.partition(" ")]]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def project() -> dict:
    return tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["project"]


def test_it_begins_with_a_python_that_the_project_supports():
    assert instructions()[0][0] == "FROM"
    (version,) = re.findall(r"^python:3\.(\d+)-slim$", of("FROM")[0])
    lowest = re.findall(r">=3\.(\d+)", project()["requires-python"])
    assert int(version) >= int(lowest[0])


def test_what_it_copies_exists_and_is_sent_to_the_daemon():
    ignored = (HOUSE / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    sources = [source for rest in of("COPY") for source in shlex.split(rest)[:-1]]
    assert "*" in ignored and set(sources) == sent, ".dockerignore sends what is copied, and nothing else"
    assert all((HOUSE / source).exists() for source in sources)
    built = {project()["readme"], "pyproject.toml", "genrec_cli"}
    assert built <= set(sources), "without these the package cannot be built"


def test_it_installs_extras_that_exist():
    named = {extra for rest in of("RUN") for extra in re.findall(r"\.\[([\w,]+)\]", rest)}
    assert named == {"serve"} and named <= set(project()["optional-dependencies"])


def test_options_of_pip_come_from_an_argument():
    arguments = {rest.partition("=")[0] for rest in of("ARG")}
    used = {name for rest in of("RUN") for name in re.findall(r"\$\{(\w+)\}", rest)}
    assert used <= arguments, "another variable would be empty"


def test_it_runs_as_a_user_of_its_own():
    words = [name for name, _ in instructions()]
    assert of("USER") == ["genrec"] and any("useradd" in rest and "genrec" in rest for rest in of("RUN"))
    last_run = len(words) - 1 - words[::-1].index("RUN")
    assert last_run < words.index("USER") < words.index("ENTRYPOINT")


def test_the_command_of_the_container_parses_and_answers_where_it_is_asked():
    command = json.loads(of("ENTRYPOINT")[0])
    assert command[:2] == ["genrec", "serve"]
    context = get_group(app).commands["serve"].make_context("genrec", [*command[2:], "mhl"])
    assert context.params["host"] == "0.0.0.0" and of("EXPOSE") == [str(context.params["port"])]
    assert context.params["runs"] == ["mhl"]
    check = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", check[2])
    assert address == (str(context.params["port"]), "/health")


def test_the_root_is_the_folder_that_the_page_says_to_mount():
    page = (HOUSE / "docs" / "serve.md").read_text("utf-8")
    settings = dict(word.split("=") for rest in of("ENV") for word in shlex.split(rest))
    assert f':{settings["GENREC_ROOT"]}"' in page


def test_the_service_has_the_address_of_the_health_check():
    pytest.importorskip("fastapi", reason="needs the extra 'serve'")
    source = (HOUSE / "genrec_cli" / "serve" / "app.py").read_text("utf-8")
    assert '"/health"' in source
