"""Rules read from the syntax trees: which folder may import which, what no file may do, and the words of names."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrec_cli.config import SECTIONS

HOUSE = Path(__file__).parents[1] / "genrec_cli"
FILES = sorted(HOUSE.rglob("*.py"))
CORE = {"artifacts", "files", "config", "registry", "console", "console_table", "errors", "process_group"}

MAY_IMPORT = {
    "cli": {"cli"},  # at the top of a file; inside functions it may call everything below
    "nn": {"nn"},
    "models": {"models", "nn", "data"},
    "curriculum": {"curriculum", "nn", "data"},
    "searches": {"searches", "models", "nn", "data"},
    "tokenizers": {"tokenizers", "nn", "files"},
    "data": {"data", "sources", "nn", "files"},
    "sources": {"sources", "data", "files"},
    "encoders": {"encoders", "files"},
    "report": {"report", "engine", "data", "files"},
    "serve": {"serve", "stages", "artifacts", "engine", "models", "searches", "data"},
    "engine": {"engine", "models", "searches", "curriculum", "nn", "data", "distributed", "process_group", "files"},
}
"""Folder -> folders it may import from; errors, config, registry and console may be imported everywhere."""


def name_of(path: Path) -> str:
    """``genrec_cli.models.rpg`` of a file."""
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Modules that a file imports, ``from a import b`` as ``a.b``; those for type checkers left out."""

    def visit(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif not (top_only and isinstance(node, ast.FunctionDef)):
                for field in ("body", "orelse", "finalbody"):
                    yield from visit(getattr(node, field, []))
                for handler in getattr(node, "handlers", []):
                    yield from visit(handler.body)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")).body)


def folder(module: str) -> str:
    """``models`` of ``genrec_cli.models.rpg``; an empty text for what is not ours."""
    first, *rest = module.split(".")
    return rest[0] if first == "genrec_cli" and rest else ""


def outside(module: str) -> str:
    return module.partition(".")[0]


def reached(roots: list[Path]) -> set[Path]:
    """The files that some files import, at the top or inside functions, and so on downward."""
    by_name = {name_of(path): path for path in FILES}
    seen: set[Path] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imports(path):
            waiting += [by_name[m] for m in (module, module.rpartition(".")[0]) if m in by_name]
    return seen


def shown(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


@pytest.mark.parametrize("path", sorted((HOUSE / "cli").glob("*.py")), ids=shown)
def test_the_command_line_imports_little(path: Path) -> None:
    light = {"typer", "click"} | set(sys.stdlib_module_names)
    for module in imports(path, top_only=True):
        ours = module.startswith("genrec_cli.cli") or module == "genrec_cli.__version__"
        assert ours or outside(module) in light, f"{shown(path)} imports {module} before any command runs"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in MAY_IMPORT], ids=shown)
def test_imports_go_downward(path: Path) -> None:
    here = path.parent.name
    everywhere = {"", "errors", "config", "registry", "console", "__version__"}
    allowed = MAY_IMPORT[here] | everywhere
    for module in imports(path, top_only=here == "cli"):
        assert folder(module) in allowed, f"{shown(path)} imports {module}: {here} is below it"


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_is_free_of_torch(name: str) -> None:
    files = [path for path in FILES if folder(name_of(path)) == name]
    assert files
    for module in (module for path in files for module in imports(path)):
        assert outside(module) not in {"torch", "polars", "faiss", "sentence_transformers"}
        assert folder(module) in CORE | {"", "__version__"}, f"{name} imports {module}"


def test_the_parts_of_artifacts_use_only_those_before_them() -> None:
    parts = ["identity", "trust", "finding", "building"]
    assert {path.stem for path in FILES if path.parent.name == "artifacts"} == {*parts, "__init__"}
    for place, part in enumerate(parts):
        used = {m.split(".")[2] for m in imports(HOUSE / "artifacts" / f"{part}.py") if folder(m) == "artifacts"}
        assert used <= set(parts[:place]), f"{part} imports {used}"


def test_models_reach_no_engine_even_through_others() -> None:
    above = {"searches", "curriculum", "engine", "artifacts", "files", "stages", "cli"}
    for path in reached(sorted((HOUSE / "models").glob("*.py"))):
        assert folder(name_of(path)) not in above, f"models reach {shown(path)}"


def test_training_and_evaluation_need_neither_polars_nor_faiss() -> None:
    roots = [HOUSE / "stages" / "train.py", HOUSE / "stages" / "evaluate.py"]
    roots += [p for part in ("models", "searches", "engine", "curriculum") for p in (HOUSE / part).glob("*.py")]
    for path in reached(roots):
        found = {outside(module) for module in imports(path)} & {"polars", "faiss", "sentence_transformers"}
        assert not found, f"{shown(path)} imports {found}"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_nothing_from_a_file_is_ever_executed(path: Path) -> None:
    for module in imports(path):
        assert outside(module) not in {
            "pickle",
            "cPickle",
            "dill",
            "cloudpickle",
            "joblib",
            "marshal",
            "shelve",
        }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except, line {node.lineno}"
        if not isinstance(node, ast.Call):
            continue
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, f"line {node.lineno}"
        called = ast.unparse(node.func)
        if called == "torch.load":
            assert given.get("weights_only") is True, f"torch.load without weights_only, line {node.lineno}"
        if called in {"np.load", "numpy.load"}:
            assert given.get("allow_pickle") in (None, False), f"line {node.lineno}"
        assert given.get("shell") is not True, f"a shell, line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_one_idea_a_file(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    assert path.stem not in {"utils", "util", "helpers", "common_utils", "misc"}


REPLACED = {
    *("adopt", "dummies", "face", "filler", "judge", "keyed", "leaders", "meant", "needs_entropy", "noised"),
    *("numbering", "processor", "recollect", "settle", "twins"),
    *("Choose", "Hide", "Noise", "Overwrites", "Standing", "UpTo", "Whole"),
}
"""Earlier words of this project. docs/glossary.md has those that took their place."""


def private_words(path: Path) -> set[str]:
    """Names of a file that are, or begin or end with, a replaced word."""
    names = {path.stem}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names |= {getattr(node, field) for field in ("id", "attr", "name", "arg") if hasattr(node, field)}
    return {name for name in names - {None} if REPLACED & {name, *name.split("_")}}


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_names_are_words_of_the_glossary(path: Path) -> None:
    assert not private_words(path), f"{shown(path)}: see docs/glossary.md"


def test_replaced_words_are_no_sections_and_no_modules() -> None:
    assert not SECTIONS & {"beam", "decoder"}
    assert not {path.stem for path in FILES} & {"adopt", "leaders", "ranks", "spool", "twins"}
    assert not (HOUSE / "decoders").exists()


def test_the_glossary_is_in_order() -> None:
    page = (HOUSE.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [line.split("|")[1].strip(" `").lower() for line in page.splitlines() if line.startswith("| ")][1:]
    words = [word for word in words if not word.startswith("---")]
    assert len(words) > 60 and words == sorted(words)


def test_what_is_imported_is_declared() -> None:
    """The names below and pytest (``testing``) are extras; all else that is imported is a direct dependency."""
    project = tomllib.loads((HOUSE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = ("report", "spark", "onnx", "serve", "tune", "wandb", "mlflow")
    extras = [line for name in names for line in project["optional-dependencies"][name]]
    extras += [line for line in project["optional-dependencies"]["dev"] if line.startswith("pytest>")]
    assert all(path.parent.name == "testing" for path in FILES if "pytest" in map(outside, imports(path)))
    declared = {re.split(r"[<>=]", line)[0] for line in [*project["dependencies"], *extras]}
    named = {"faiss": "faiss-cpu", "sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}
    imported = {outside(module) for path in FILES for module in imports(path)}
    imported -= {"genrec_cli", *sys.stdlib_module_names}
    plugins = {"httptools", "uvloop"}  # uvicorn imports them
    assert plugins <= declared
    assert {named.get(module, module.replace("_", "-")) for module in imported} == declared - plugins


def test_these_checks_can_fail(tmp_path: Path) -> None:
    hidden = "def f():\n    try:\n        pass\n    except E:\n        import torch\n"
    (file := tmp_path / "sample.py").write_text(f"import os\nif TYPE_CHECKING:\n    import faiss\n{hidden}")
    assert list(imports(file)) == ["os", "torch"]
    assert list(imports(file, top_only=True)) == ["os"]
    assert folder("genrec_cli.models.rpg") == "models" and folder("torch.nn") == ""
    file.write_text("class Noise:\n    twins_J = None\n    def f(self, needs_entropy): ...\n")
    assert private_words(file) == {"Noise", "twins_J", "needs_entropy"}
