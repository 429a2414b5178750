"""Artifacts: keys, digests, atomic writing, staleness, selection of inputs, locks."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_cli.artifacts import MANIFEST, Artifact, Plan, Workspace, trust
from genrec_cli.errors import DataError, GenrecError, InputError, UsageError
from genrec_cli.files import locked, sha256_file, write_atomically
from genrec_cli.stages.status import survey


def plan(kind: str = "data", label: str = "k5", inputs: dict[str, Artifact] | None = None, **config: object) -> Plan:
    return Plan("shop", kind, label, 1, {kind: config}, inputs or {})


def build(ws: Workspace, what: Plan, content: str = "content", **options: bool) -> Artifact:
    with ws.build(what, **options) as draft:
        (draft.path / "table.txt").write_text(content)
        draft.result["rows"] = 3
    made = ws.read(ws.path(what))
    assert made is not None
    return made


def partial(ws: Workspace) -> list[Path]:
    """Folders that were begun and not finished."""
    return [node.path for node in survey(ws, "shop") if node.state == "partial"]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root")


# ---- key and digest ----------------------------------------------------------------------------------


def test_the_key_is_the_recipe_and_nothing_else(ws: Workspace) -> None:
    assert plan(a=1, b=2).key == plan(b=2, a=1).key, "the order of keys means nothing"
    assert plan(a=1, label="another label").key == plan(a=1).key, "a label is for people"
    different = {
        plan(a=1).key,
        plan(a=2).key,
        plan("codes", a=1).key,
        Plan("shop", "data", "k5", 2, {"data": {"a": 1}}).key,
    }
    different.add(Plan("shop", "data", "k5", 1, {"data": {"a": 1}}, external={"file.csv": "00"}).key)
    different.add(plan(a=1, inputs={"raw": build(ws, plan("raw", "files"))}).key)
    assert len(different) == 6
    assert plan(a=1).name == f"k5-{plan(a=1).key[:8]}"


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.booleans(), max_size=4))
def test_equal_configurations_have_equal_keys(config: dict[str, object]) -> None:
    shuffled = dict(reversed(config.items()))
    assert Plan("d", "data", "x", 1, config).key == Plan("d", "data", "x", 1, shuffled).key
    assert re.fullmatch("[0-9a-f]{64}", Plan("d", "data", "x", 1, config).key)


def test_the_digest_covers_files_and_all_history(ws: Workspace) -> None:
    raw = build(ws, plan("raw", "files"), "first")
    data = build(ws, plan(inputs={"raw": raw}))
    raw_again = build(ws, plan("raw", "files"), "second", force=True)
    data_again = build(ws, plan(inputs={"raw": raw_again}))
    assert raw.key == raw_again.key and raw.digest != raw_again.digest
    assert data.key == data_again.key and data.digest != data_again.digest, "same bytes, another history"


def test_the_manifest_tells_how_it_was_made(ws: Workspace) -> None:
    raw = build(ws, plan("raw", "files"))
    made = build(ws, plan(inputs={"raw": raw}, fields=["title"]))
    assert made.config == {"data": {"fields": ["title"]}} and made.result == {"rows": 3} and not made.tainted
    path = raw.path.relative_to(ws.root).as_posix()
    assert made.manifest["inputs"]["raw"] == {"path": path, "key": raw.key, "digest": raw.digest}
    assert set(made.manifest["files"]) == {"table.txt"} and made.manifest["stage"] == "preprocess"
    assert str(ws.root) not in (made.path / MANIFEST).read_text(), "a root can be moved"


# ---- commit ------------------------------------------------------------------------------------------


def test_an_error_leaves_nothing_behind(ws: Workspace) -> None:
    with pytest.raises(RuntimeError), ws.build(plan()) as draft:
        (draft.path / "half.txt").write_text("half")
        raise RuntimeError
    assert ws.read(ws.path(plan())) is None and ws.all("shop", "data") == [] and partial(ws) == []


def test_an_error_keeps_what_was_there_before(ws: Workspace) -> None:
    before = build(ws, plan())
    with pytest.raises(RuntimeError), ws.build(plan(), force=True):
        raise RuntimeError
    after = ws.read(ws.path(plan()))
    assert after is not None and after.digest == before.digest and ws.stale(after) is None


def test_what_was_there_before_goes_when_the_new_is_in_its_place(ws: Workspace, monkeypatch) -> None:
    build(ws, plan(), "before")
    final = ws.path(plan())
    remove, whole = shutil.rmtree, []

    def watched(path: Path, **options: bool) -> None:
        whole.append((final / "table.txt").read_text())
        remove(path, **options)

    with monkeypatch.context() as patch, ws.build(plan()) as draft:
        (draft.path / "table.txt").write_text("after")
        patch.setattr(shutil, "rmtree", watched)
    assert whole[-1] == "after" and set(whole) == {"before", "after"}
    final.rename(old := final.parent / f".{final.name}.old")  # as a kill between the two renames leaves it
    with pytest.raises(RuntimeError), ws.build(plan()):
        raise RuntimeError
    assert ws.done(plan()) is not None and not old.exists()


def test_a_folder_of_another_key_is_not_taken(ws: Workspace) -> None:
    other = plan(a=2)
    build(ws, plan(a=1)).path.rename(ws.path(other))  # as if the first eight digits were the same
    assert ws.done(other) is None
    assert build(ws, other, "other").key == other.key and ws.done(other) is not None


@pytest.mark.parametrize("resumable", [False, True])
def test_kill_in_the_middle_leaves_nothing_finished(ws: Workspace, resumable: bool) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from genrec_cli.artifacts import Plan, Workspace
        plan = Plan("shop", "data", "k5", 1, {{"data": {{}}}})
        with Workspace(Path({str(ws.root)!r})).build(plan, resumable={resumable}) as draft:
            (draft.path / "table.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[1], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert ws.read(ws.path(plan())) is None and ws.all("shop", "data") == [] and ws.done(plan()) is None
    assert len(partial(ws)) == 1
    with pytest.raises(InputError, match="no finished data"):
        ws.find("shop", "data")
    with ws.build(plan(), resumable=resumable) as draft:
        assert (draft.path / "table.txt").exists() == resumable, "only a resumable artifact goes on from what is there"
        (draft.path / "table.txt").write_text("whole")
    assert ws.find("shop", "data").result == {} and partial(ws) == []


@pytest.mark.parametrize("ending", ["kill", "full disk"])
def test_a_manifest_that_was_written_in_part_leaves_no_trace(ws: Workspace, monkeypatch, ending: str) -> None:
    what, scratch = plan("runs"), ws.path(plan("runs")) / f".{MANIFEST}.tmp"

    def stopped(number: int) -> None:
        if ending == "kill":  # nothing of this process runs after it
            monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(InputError, match=f"{ws.path(what)}: No space left"):
        broken.setattr(os, "fsync", stopped)
        build(ws, what, resumable=True)
    monkeypatch.undo()
    assert ws.done(what) is None and scratch.exists() == (ending == "kill")
    made = build(ws, what, resumable=True)
    assert list(made.manifest["files"]) == ["table.txt"]
    assert ws.stale(made) is None and ws.done(what) is not None


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_a_root_that_cannot_be_written_is_named(ws: Workspace, monkeypatch, number: int) -> None:
    def refused(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(GenrecError, match=f"{ws.root}/shop/data.*{os.strerror(number)}") as caught:
        build(ws, plan())
    assert caught.value.exit_code == (2 if number == errno.ENOTDIR else 4), "a wrong option, or a disk"


def test_force_begins_a_resumable_artifact_anew(ws: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt), ws.build(plan(), resumable=True) as draft:
        (draft.path / "last.bin").write_text("checkpoint")
        raise KeyboardInterrupt
    assert (ws.path(plan()) / "last.bin").exists(), "an interrupted run can go on"
    with ws.build(plan(), resumable=True, force=True) as draft:
        assert not (draft.path / "last.bin").exists()


def test_two_processes_cannot_build_the_same(ws: Workspace) -> None:
    with ws.build(plan()), pytest.raises(InputError, match="Another process") as caught, ws.build(plan()):
        pass
    assert caught.value.exit_code == 4
    with ws.build(plan(a=1)):
        pass  # another artifact is free to be built


def test_a_lock_that_its_holder_has_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(stream: object, operation: int) -> None:
        (tmp_path / "lock").unlink()

    with locked(tmp_path / "lock", tmp_path):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="Another process"), locked(tmp_path / "lock", tmp_path):
        pass


@pytest.mark.parametrize("resumable", [False, True])
def test_a_failure_before_any_file_leaves_no_folder(ws: Workspace, resumable: bool) -> None:
    with pytest.raises(RuntimeError), ws.build(plan(), resumable=resumable) as draft:
        (draft.scratch / "parts").mkdir()
        raise RuntimeError
    assert list(ws.root.rglob("*")) == [] and ws.datasets() == []
    build(ws, plan("raw", "files"))
    with pytest.raises(RuntimeError), ws.build(plan(), resumable=resumable):
        raise RuntimeError
    assert [path.name for path in (ws.root / "shop").iterdir()] == ["raw"], "what else is there stays"


def test_a_resumable_draft_stays_if_it_holds_a_file(ws: Workspace) -> None:
    with pytest.raises(RuntimeError), ws.build(plan(), resumable=True) as draft:
        (draft.scratch / "part").write_text("half of it")
        raise RuntimeError
    assert (draft.scratch / "part").exists() and partial(ws) == [ws.path(plan())]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


# ---- staleness ---------------------------------------------------------------------------------------


def test_done_means_finished_unchanged_and_from_these_inputs(ws: Workspace) -> None:
    assert ws.done(plan()) is None
    made = build(ws, plan())
    assert ws.done(plan()) == made and ws.done(plan(a=1)) is None
    (made.path / "table.txt").write_text("changed!")
    assert ws.done(plan()) is None


def test_the_same_settings_under_another_label_are_copied(ws: Workspace) -> None:
    data = build(ws, plan())
    trial = build(ws, plan("runs", "trial", {"data": data}), "weights")
    (trial.path / "README.md").write_text("card")
    best = plan("runs", "best", {"data": data})
    assert ws.done(best) is None
    copied = ws.done_or_copied(best)
    assert copied == ws.done(best) and copied.path.name.startswith("best-")
    assert (copied.key, copied.digest, copied.result) == (trial.key, trial.digest, trial.result)
    (copied.path / "README.md").write_text("edited")
    assert (trial.path / "README.md").read_text() == "card"
    assert ws.done_or_copied(plan("runs", "other", {"data": data}, layers=2)) is None


def test_only_a_finished_and_unchanged_artifact_is_copied(ws: Workspace) -> None:
    made = build(ws, plan(label="old"))
    (made.path / "table.txt").write_text("changed!")
    assert ws.done_or_copied(plan(label="new")) is None
    begun = plan(label="begun")
    build(ws, plan(label="good"))
    ws.path(begun).mkdir()
    assert ws.done_or_copied(begun) is None  # its own draft goes on


def test_a_disk_without_hard_links_gets_copies(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links")

    made = build(ws, plan(label="old"))
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copied = ws.done_or_copied(plan(label="new"))
    assert copied is not None and copied.digest == made.digest


@pytest.mark.parametrize("damage", ["change", "delete", "same length"])
def test_a_changed_file_is_named(ws: Workspace, damage: str) -> None:
    raw = build(ws, plan("raw", "files"))
    data = build(ws, plan(inputs={"raw": raw}))
    codes = build(ws, plan("codes", "opq", inputs={"data": data}))
    file = raw.path / "table.txt"
    if damage == "delete":
        file.unlink()
    else:
        file.write_text("longer than before" if damage == "change" else "CONTENT")
        os.utime(file, ns=(1, 1))
    for artifact in (raw, data, codes):
        why = ws.stale(artifact)
        assert why is not None and str(file) in why, "the cause is named however far down it is found"
        with pytest.raises(InputError) as caught:
            ws.find("shop", artifact.kind)
        assert str(file) in caught.value.message and "--force" in str(caught.value.hint)


def test_touching_a_file_changes_nothing(ws: Workspace) -> None:
    made = build(ws, plan())
    os.utime(made.path / "table.txt", ns=(1, 1))
    assert ws.stale(made) is None


def test_bytes_are_read_once_where_time_stamps_were_lost(ws: Workspace, monkeypatch) -> None:
    raw = build(ws, plan("raw", "files"))
    data = build(ws, plan(inputs={"raw": raw}))
    for artifact in (raw, data):
        os.utime(artifact.path / "table.txt", ns=(1, 1))
    read: list[Path] = []
    monkeypatch.setattr("genrec_cli.files.sha256_file", lambda path: read.append(path) or sha256_file(path))
    for _ in range(3):
        ws.input(ws.find("shop", "data"), "raw")
    assert sorted(read) == sorted(artifact.path / "table.txt" for artifact in (raw, data))
    read[0].write_text("CONTENT")
    assert ws.stale(data)


def test_each_manifest_is_read_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of data and codes, both made from the same data, is found, checked and resolved like in ``evaluate``."""
    raw = build(ws, plan("raw", "files"))
    data = build(ws, plan(inputs={"raw": raw}))
    vectors = build(ws, plan("vectors", "lsa", inputs={"data": data}))
    codes = build(ws, plan("codes", "opq", inputs={"data": data, "vectors": vectors}))
    run = build(ws, plan("runs", "rpg-s0", inputs={"data": data, "codes": codes}))
    trust._manifest.cache_clear()
    read: list[Path] = []
    checked: list[Path] = []
    read_text, changed_file = Path.read_text, trust._changed_file
    monkeypatch.setattr(Path, "read_text", lambda path, **options: read.append(path) or read_text(path, **options))
    monkeypatch.setattr(trust, "_changed_file", lambda a: checked.append(a.path) or changed_file(a))
    assert ws.stale(run) is None
    everything = sorted(artifact.path for artifact in (raw, data, vectors, codes, run))
    assert sorted(checked) == everything, "an ancestor is checked once, though two ways lead to it"
    found = ws.find("shop", "runs", "rpg-s0")
    for name in ("data", "codes"):
        ws.input(found, name)
    build(ws, plan("eval", "rpg-s0-test", inputs={"runs": found}))
    assert sorted(path.parent for path in read if path.name == MANIFEST) == sorted([*everything, read[-1].parent])
    assert "eval" in str(read[-1]), "what was made is read once too"


def test_a_manifest_that_has_changed_is_read_again(ws: Workspace) -> None:
    made = build(ws, plan())
    again = build(ws, plan(), "other content", force=True)
    assert ws.read(made.path) == again and made.digest != again.digest


def test_a_copy_within_the_root_can_be_used(ws: Workspace) -> None:
    run = build(ws, plan("runs", "rpg-s0", inputs={"data": build(ws, plan())}))
    for place in (run.path.with_name("mine"), ws.root / "kept" / "mine"):
        shutil.copytree(run.path, place, copy_function=shutil.copyfile)  # time stamps are lost
        copy = ws.find("shop", "runs", str(place))
        assert copy.digest == run.digest and copy.label == "mine" and ws.input(copy, "data").dataset == "shop"
    assert ws.find("shop", "runs", "rpg-s0").label == "rpg-s0" and ws.find("shop", "runs", "mine").label == "mine"


def test_a_copy_outside_of_the_root_can_be_used_with_the_root_of_its_inputs(ws: Workspace, tmp_path: Path) -> None:
    run = build(ws, plan("runs", "rpg-s0", inputs={"data": build(ws, plan())}))
    copy = tmp_path / "backup" / "mine"
    shutil.copytree(run.path, copy)
    found = ws.find("shop", "runs", str(copy))
    assert found.digest == run.digest and ws.input(found, "data").dataset == "shop"
    made = build(ws, plan("eval", "rpg-s0-test", inputs={"runs": found}))
    assert ws.stale(made) is None and ws.input(made, "runs").path == copy
    with pytest.raises(InputError, match=r"mine was made from shop/data/.*, which is not under"):
        Workspace(tmp_path / "other").find("shop", "runs", str(copy))


@pytest.mark.parametrize("words", [["sweep", "mhl-table2", "--seeds", "0,1"], ["train", "--model", "rpg"], ["mine.py"]])
def test_the_hint_of_a_stale_run_is_the_command_that_made_it(tmp_path: Path, words: list[str]) -> None:
    ws = Workspace(tmp_path / "root", argv=words)
    what = replace(plan("runs", "rpg-s3"), config={"model": {"name": "rpg"}, "train": {"seed": 3}})
    run = build(ws, what)
    (run.path / "table.txt").write_text("changed")
    typed = ["train", "--model", "rpg", "--seed", "3"] if words == ["mine.py"] else words
    force = "" if words[0] == "sweep" else " --force"
    with pytest.raises(InputError) as caught:
        ws.verified(run)
    assert str(caught.value.hint).startswith(f"genrec {' '.join(typed)} --dataset shop{force}    makes it again")


def test_the_card_of_a_run_may_be_edited(ws: Workspace) -> None:
    with ws.build(plan("runs", "rpg-s0")) as draft:
        (draft.path / "README.md").write_text("as it was written")
        (draft.path / "weights").mkdir()
        (draft.path / "weights" / "README.md").write_text("not the card")
    run = ws.made(plan("runs", "rpg-s0"))
    (run.path / "README.md").write_text("what the user adds")
    assert ws.find("shop", "runs") == run and list(run.manifest["files"]) == ["weights/README.md"]


def test_the_hint_of_a_stale_input_is_the_command_of_that_input(ws: Workspace) -> None:
    data = build(ws, plan())
    codes = build(ws, plan("codes", "opq", {"data": data}))
    run = build(ws, plan("runs", "rpg-s0", {"data": data, "codes": codes}))
    (codes.path / "table.txt").write_text("changed!")
    with pytest.raises(InputError, match=f"{run.path.name} is stale: {codes.path}/table.txt") as caught:
        ws.find("shop", "runs")
    again = f"genrec tokenize --dataset shop --force    makes codes/{codes.path.name} again; "
    assert str(caught.value.hint).startswith(again)


def test_an_input_made_again_makes_stale_and_the_same_bytes_heal(ws: Workspace) -> None:
    raw = build(ws, plan("raw", "files"), "first")
    data = build(ws, plan(inputs={"raw": raw}))
    build(ws, plan("raw", "files"), "second", force=True)
    assert "made again with other content" in str(ws.stale(data)) and ws.done(plan(inputs={"raw": raw})) is None
    build(ws, plan("raw", "files"), "first", force=True)
    assert ws.stale(data) is None


def test_allow_stale_goes_on_and_marks_what_follows(ws: Workspace) -> None:
    raw = build(ws, plan("raw", "files"))
    (raw.path / "table.txt").write_text("changed by hand")
    lenient = Workspace(ws.root, allow_stale=True)
    data = build(lenient, plan(inputs={"raw": lenient.find("shop", "raw")}))
    codes = build(lenient, plan("codes", "opq", inputs={"data": data}))
    assert data.tainted and codes.tainted


def test_an_input_comes_from_the_manifest(ws: Workspace) -> None:
    raw = build(ws, plan("raw", "files"))
    data = build(ws, plan(inputs={"raw": raw}))
    build(ws, plan("raw", "other files", a=1))
    assert ws.input(data, "raw").digest == raw.digest


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "data"}', "\ufffd\x00", '"text"'])
def test_a_damaged_manifest_is_an_error_with_a_way_out(ws: Workspace, text: str) -> None:
    made = build(ws, plan())
    (made.path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match="is damaged") as caught:
        ws.find("shop", "data")
    assert caught.value.exit_code == 3 and f"rm {made.path / MANIFEST} " in str(caught.value.hint)
    (made.path / MANIFEST).unlink()
    assert build(ws, plan()).digest == made.digest


@pytest.mark.parametrize(
    "change", [{"files": []}, {"inputs": {"raw": {}}}, {"config": {}}, {"key": 5}, {"kind": "codes"}]
)
def test_an_edited_manifest_does_not_vouch(ws: Workspace, change: dict) -> None:
    made = build(ws, plan(a=1, inputs={"raw": build(ws, plan("raw", "files"))}))
    written = json.loads((made.path / MANIFEST).read_text())
    (made.path / MANIFEST).write_text(json.dumps(written | change))
    with pytest.raises(DataError, match="is damaged"):
        ws.find("shop", "data")


# ---- candidates --------------------------------------------------------------------------------------


def test_none_one_or_several_candidates(ws: Workspace) -> None:
    with pytest.raises(InputError, match="no finished data yet") as caught:
        ws.find("shop", "data")
    assert caught.value.exit_code == 4 and "genrec preprocess" in str(caught.value.hint)
    first = build(ws, plan())
    assert ws.find("shop", "data") == first
    second = build(ws, plan(a=1))
    with pytest.raises(InputError) as caught:
        ws.find("shop", "data")
    assert caught.value.exit_code == 4 and "--data" in str(caught.value.hint)
    assert first.path.name in caught.value.message and second.path.name in caught.value.message
    (second.path / "table.txt").write_text("changed!")
    assert ws.find("shop", "data") == first, "one that is stale is no candidate"


def test_candidates_by_name_label_key_and_path(ws: Workspace) -> None:
    first, second = build(ws, plan(label="k5")), build(ws, plan(label="k10", a=1))
    for selector in (second.path.name, "k10", second.key[:6], second.key, str(second.path)):
        assert ws.find("shop", "data", selector) == second
    with pytest.raises(InputError, match="Did you mean") as caught:
        ws.find("shop", "data", first.path.name + "x")
    assert caught.value.exit_code == 4
    assert Workspace(ws.root.parent / "another").find("shop", "data", str(first.path)) == first, "it has no inputs"
    with pytest.raises(UsageError, match="not an artifact of the kind"):
        ws.find("shop", "codes", str(first.path))
    codes = build(ws, plan("codes", "opq", {"data": first}))
    assert ws.find("shop", "codes", str(codes.path), made_from=first) == codes
    with pytest.raises(UsageError, match="was made from other data than k10"):
        ws.find("shop", "codes", str(codes.path), made_from=second)


def test_several_of_one_label_are_an_error(ws: Workspace) -> None:
    build(ws, plan("runs", "rpg-s0")), build(ws, plan("runs", "rpg-s0", lr=1))
    with pytest.raises(InputError) as caught:
        ws.find("shop", "runs", "rpg-s0")
    assert "in full" in str(caught.value.hint)
    build(ws, plan("sweeps", "t2")), build(ws, plan("sweeps", "t6", a=1))
    with pytest.raises(InputError) as caught:
        ws.find("shop", "sweeps")
    assert "--sweep NAME" in str(caught.value.hint)


def test_the_only_data_set_is_taken_by_itself(ws: Workspace) -> None:
    with pytest.raises(InputError, match="no data set") as caught:
        ws.dataset(None)
    assert "genrec preprocess --dataset NAME --interactions FILE    takes your log" in str(caught.value.hint)
    build(ws, plan())
    assert ws.dataset(None) == "shop"
    with pytest.raises(RuntimeError), ws.build(Plan("books", "raw", "files", 1, {}), resumable=True) as draft:
        (draft.path / "books.gz.part").write_text("the beginning")
        raise RuntimeError
    assert ws.datasets() == ["books", "shop"] and ws.dataset(None) == "shop", "an unfinished download is no choice"
    build(ws, Plan("beauty", "raw", "files", 1, {}))
    with pytest.raises(InputError, match="2 data sets"):
        ws.dataset(None)
    with pytest.raises(InputError, match="Did you mean 'beauty'") as caught:
        ws.dataset("beuty")
    assert str(caught.value.hint).startswith("There are: beauty, books, shop;  genrec preprocess --dataset beuty ")


def test_a_root_can_be_moved(ws: Workspace, tmp_path: Path) -> None:
    raw = build(ws, plan("raw", "files"))
    build(ws, plan(inputs={"raw": raw}))
    ws.root.rename(tmp_path / "moved")
    moved = Workspace(tmp_path / "moved")
    assert moved.input(moved.find("shop", "data"), "raw").digest == raw.digest


def test_the_manifest_is_plain_json(ws: Workspace) -> None:
    made = build(ws, plan())
    assert json.loads((made.path / MANIFEST).read_text())["schema"] == 1
