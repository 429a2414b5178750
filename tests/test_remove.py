"""rm and gc: what goes, what stays, and that nothing goes unasked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from shop import genrec

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.errors import InputError
from genrec_cli.files import locked
from genrec_cli.stages.remove import find, remove, unneeded


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root")


def build(ws: Workspace, kind: str, label: str, *, external: str = "", **inputs: Artifact) -> Artifact:
    plan = Plan("shop", kind, label, 1, {}, inputs, {"interactions": external} if external else {})
    with ws.build(plan) as draft:
        (draft.path / "file.txt").write_text(label + external)
    return ws.made(plan)


def chain(ws: Workspace, external: str = "monday") -> list[Artifact]:
    data = build(ws, "data", "k5", external=external)
    codes = build(ws, "codes", "opq", data=data)
    run = build(ws, "runs", "rpg-s0", data=data, codes=codes)
    return [data, codes, run, build(ws, "eval", "rpg-s0-test", runs=run)]


def names(nodes: Any) -> list[str]:
    return [node.path.name for node in nodes]


def test_a_path_names_that_folder_and_no_other_of_its_name(ws: Workspace, tmp_path: Path) -> None:
    evaluation = chain(ws)[-1]
    name = evaluation.path.name
    for path in (tmp_path / "backup" / "shop" / "eval" / name, f"other/shop/eval/{name}"):
        with pytest.raises(InputError, match="There is no artifact"):
            find(ws, "shop", [str(path)], dependants=False)
        with pytest.raises(InputError, match="No eval"):
            ws.find("shop", "eval", str(path))
    for path in (evaluation.path, f"eval/{name}", f"shop/eval/{name}", name):
        assert names(find(ws, "shop", [str(path)], dependants=False)) == [name]
        assert ws.find("shop", "eval", str(path)) == evaluation
    with pytest.raises(InputError, match="No eval"):
        ws.find("shop", "eval", f"{evaluation.path}\n{evaluation.path}x")


def test_what_others_were_made_from_goes_only_with_them(ws: Workspace) -> None:
    data, codes, run, evaluation = chain(ws)
    with pytest.raises(InputError, match="2 artifact") as caught:
        find(ws, "shop", ["opq"], dependants=False)
    assert "--with-dependants" in str(caught.value.hint)
    remove(find(ws, "shop", [f"codes/{codes.path.name}"], dependants=True))
    assert data.path.exists() and not any(a.path.exists() for a in (codes, run, evaluation))
    assert not run.path.parent.exists(), "an empty folder goes too"
    remove(find(ws, "shop", ["k5"], dependants=False))
    assert not (ws.root / "shop").exists()


def test_a_name_that_is_none_or_several(ws: Workspace) -> None:
    chain(ws)
    with pytest.raises(InputError, match="Did you mean 'rpg-s0'"):
        find(ws, "shop", ["rgp-s0"], dependants=False)
    build(ws, "data", "k5", external="tuesday")
    with pytest.raises(InputError, match="2 artifacts are named 'k5'"):
        find(ws, "shop", ["k5"], dependants=False)


def test_what_a_process_makes_is_not_removed(ws: Workspace) -> None:
    *_, evaluation = chain(ws)
    nodes = find(ws, "shop", [evaluation.path.name], dependants=False)
    path = evaluation.path
    with locked(path.parent / f".{path.name}.lock", path), pytest.raises(InputError, match="Another process"):
        remove(nodes)
    assert path.exists()


def test_fresh_artifacts_and_their_inputs_stay(ws: Workspace) -> None:
    _, codes, run, evaluation = chain(ws)
    assert unneeded(ws, "shop", superseded=False) == []
    (run.path / "file.txt").write_text("changed")
    left = codes.path.parent / ".opq-00000000.making"
    left.mkdir()
    half = codes.path.with_name(f".{codes.path.name}.removed")  # a killed rm: its manifest may still be there
    shutil.copytree(codes.path, half)
    training = run.path.with_name("rpg-s1-11111111")
    training.mkdir()
    (training / "checkpoint").write_text("can go on")
    gone = unneeded(ws, "shop", superseded=False)
    assert set(names(gone)) == {run.path.name, evaluation.path.name, left.name, half.name}
    remove(gone)
    assert codes.path.exists() and training.exists() and not left.exists() and not half.exists()


def test_an_earlier_state_of_the_same_files_is_superseded(ws: Workspace) -> None:
    old = chain(ws, "monday")
    other = build(ws, "data", "k2", external="monday")
    new = chain(ws, "tuesday")
    assert unneeded(ws, "shop", superseded=False) == []
    assert {node.path for node in unneeded(ws, "shop", superseded=True)} == {a.path for a in old}
    # codes by the codebook of the old ones need these, and what these were made from
    build(ws, "codes", "opq-frozen", data=new[0], codebook=old[1])
    assert {node.path for node in unneeded(ws, "shop", superseded=True)} == {a.path for a in old[2:]}
    assert other.path.exists()


def test_a_run_is_superseded_only_by_the_same_training_on_later_data(ws: Workspace) -> None:
    *_, evaluation = old = chain(ws, "monday")
    build(ws, "data", "k2", external="monday")
    new = build(ws, "data", "k5", external="tuesday")
    build(ws, "runs", "rpg-s0", data=build(ws, "data", "k2", external="tuesday"))  # other data
    build(ws, "runs", "rpg-s1", data=new)  # another run
    gone = {node.path for node in unneeded(ws, "shop", superseded=True)}
    assert not gone & {artifact.path for artifact in old}, "the run, its evaluation and what it was made from"
    build(ws, "runs", "rpg-s0", data=new, codes=build(ws, "codes", "opq", data=new))
    gone = {node.path for node in unneeded(ws, "shop", superseded=True)}
    assert gone >= {artifact.path for artifact in old} and evaluation.path in gone


def test_nothing_is_removed_without_an_answer(ws: Workspace) -> None:
    *_, evaluation = chain(ws)
    assert genrec(ws.root, "rm", evaluation.path.name, "--dry-run").code == 0
    refused = genrec(ws.root, "rm", evaluation.path.name)
    assert refused.code == 2 and "--yes" in refused.err and evaluation.path.exists()
    answer = genrec(ws.root, "rm", evaluation.path.name, "--yes", "--json")
    facts = json.loads(answer.out)
    assert facts["removed"] and facts["artifacts"] == [str(evaluation.path)] and not evaluation.path.exists()
    assert "nothing to remove" in genrec(ws.root, "gc", "--yes").err
