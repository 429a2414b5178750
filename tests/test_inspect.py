"""list, status and doctor: true, readable without torch, and never stopped by what they are to report."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from shop import SMALL_SHOP, genrec

from genrec_cli import console
from genrec_cli.artifacts import KINDS, MANIFEST, Artifact, Plan, Workspace
from genrec_cli.cli import inspect as cli_inspect
from genrec_cli.errors import ConfigError, GenrecError, UsageError
from genrec_cli.files import sha256_file
from genrec_cli.registry import TABLE, code_of, load, names, plural
from genrec_cli.stages import doctor
from genrec_cli.stages.status import lines, next_step, survey


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root")


def build(ws: Workspace, kind: str, label: str, **inputs: Artifact) -> Artifact:
    plan = Plan("shop", kind, label, 1, {}, inputs)
    with ws.build(plan) as draft:
        (draft.path / "file.txt").write_text(label)
    made = ws.read(ws.path(plan))
    assert made is not None
    return made


@pytest.fixture
def pipeline(ws: Workspace) -> dict[str, Artifact]:
    raw = build(ws, "raw", "files")
    data = build(ws, "data", "k5", raw=raw)
    codes = build(ws, "codes", "opq", data=data)
    run = build(ws, "runs", "rpg-s0", data=data, codes=codes)
    return {
        "raw": raw,
        "data": data,
        "codes": codes,
        "runs": run,
        "eval": build(ws, "eval", "rpg-s0-test", runs=run),
    }


def call(ws: Workspace, *words: str) -> int:
    app = typer.Typer()
    cli_inspect.register(app)
    try:
        return app([*words, "--root", str(ws.root)], standalone_mode=False) or 0
    finally:
        console.configure()


# ---- status --------------------------------------------------------------------------------------------


def test_the_tree_hangs_each_artifact_below_its_latest_input(ws: Workspace, pipeline: dict[str, Artifact]) -> None:
    (root,) = (node for node in survey(ws, "shop") if node.parent is None)
    chain = [root]
    while chain[-1].children:
        (below,) = chain[-1].children
        assert below.parent is chain[-1]
        chain.append(below)
    assert [node.kind for node in chain] == ["raw", "data", "codes", "runs", "eval"]
    assert {node.state for node in chain} == {"fresh"} and all(node.command is None for node in chain)
    assert [line.split()[0] for line in lines([root], 160)][-1] == f"eval/{pipeline['eval'].path.name}"


def test_the_cause_is_named_once_and_the_rest_follows(ws: Workspace, pipeline: dict[str, Artifact]) -> None:
    changed = pipeline["data"].path / "file.txt"
    changed.write_text("changed by hand")
    nodes = {node.kind: node for node in survey(ws, "shop")}
    assert nodes["raw"].state == "fresh"
    assert nodes["data"].state == "stale" and str(changed) in str(nodes["data"].why)
    assert "genrec preprocess --dataset shop --force" in str(nodes["data"].command)
    for kind, above in (("codes", "data"), ("runs", "codes"), ("eval", "runs")):
        assert nodes[kind].state == "stale" and nodes[kind].command is None
        assert f"{above}/{pipeline[above].path.name} is stale" in str(nodes[kind].why)


def test_the_remedy_is_the_line_that_was_typed(
    ws: Workspace, pipeline: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["train", "--model", "rpg", "--set", "train.lr=1e-3", "--label", "two words"]
    monkeypatch.setattr(sys, "argv", ["genrec", *typed])
    run = build(Workspace(ws.root), "runs", "rpg-s1", data=pipeline["data"])
    (run.path / "file.txt").unlink()
    node = next(node for node in survey(ws, "shop") if node.path == run.path)
    assert node.command == "genrec train --model rpg --set train.lr=1e-3 --label 'two words' --dataset shop --force"


def test_what_was_begun_says_how_to_go_on(ws: Workspace) -> None:
    (ws.root / "shop" / "runs" / "rpg-s3-01234567" / "last").mkdir(parents=True)
    (ws.root / "shop" / "data" / ".k5-89abcdef.making").mkdir(parents=True)
    data, run = survey(ws, "shop")
    assert run.state == "partial" and "genrec train --dataset shop --model rpg --seed 3 " in str(run.command)
    assert data.state == "partial" and "killed" in str(data.why)


def test_what_was_begun_is_continued_by_the_line_that_was_typed(ws: Workspace) -> None:
    typed = ["train", "--model", "rpg", "--set", "train.lr=1e-3", "--force", "--label", "two words"]
    plan = Plan("shop", "runs", "two words", 1, {"train": {"lr": 1e-3}})
    with pytest.raises(KeyboardInterrupt), Workspace(ws.root, argv=typed).build(plan, resumable=True) as draft:
        (draft.path / "last.bin").write_text("checkpoint")
        raise KeyboardInterrupt
    (node,) = survey(ws, "shop")
    again = "genrec train --model rpg --set train.lr=1e-3 --label 'two words' --dataset shop    goes on"
    assert node.state == "partial" and node.command == again
    with Workspace(ws.root, argv=["evaluate"]).build(plan, resumable=True):
        assert str(survey(ws, "shop")[0].command).startswith("genrec train --dataset shop"), "not a command of its kind"
    made = ws.done(plan)
    assert made and not (made.path / "unfinished").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": 1}', None])
def test_damage_is_reported_and_does_not_stop_the_survey(
    ws: Workspace, pipeline: dict[str, Artifact], text: str | None
) -> None:
    path = pipeline["codes"].path / MANIFEST
    if text is None:  # the right keys with values of another form
        text = json.dumps({**json.loads(path.read_text()), "files": [1], "inputs": "none"})
    path.write_text(text)
    nodes = {node.kind: node for node in survey(ws, "shop")}
    assert nodes["codes"].state == "damaged" and nodes["codes"].command
    assert nodes["data"].state == "fresh" and nodes["runs"].state in ("stale", "damaged")


def test_the_command_prints_a_tree_or_one_object(
    ws: Workspace, pipeline: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(ws, "status") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "shop" and len(out) == 6 and all("fresh" in line for line in out[1:])
    assert call(ws, "status", "--json") == 0
    (shop,) = json.loads(capsys.readouterr().out)["datasets"]
    assert [a["kind"] for a in shop["artifacts"]] == ["raw", "data", "codes", "runs", "eval"]
    assert shop["artifacts"][1]["inputs"] == [pipeline["raw"].path.relative_to(ws.root).as_posix()]


def test_the_tree_has_dates_sizes_metrics_and_the_next_step(
    ws: Workspace, pipeline: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan("shop", "eval", "rpg-s0-valid", 1, {}, {"runs": pipeline["runs"]})
    with ws.build(plan) as draft:
        (draft.path / "file.txt").write_text("x" * 2**20)
        draft.result["metrics"] = {"kept": {"NDCG@5": 0.1, "NDCG@10": 0.0412, "Recall@10": 0.3}}
    run = build(ws, "runs", "rpg-s1", data=pipeline["data"])
    assert call(ws, "status") == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if "rpg-s0-valid" in line]
    assert re.search(r"fresh  \d\d-\d\d \d\d:\d\d  1.0 MiB  NDCG@10 0.0412$", line)
    assert f"next for shop: genrec evaluate --dataset shop --run {run.path.name}" in err
    assert call(ws, "status", "rpg-s0-valid", "--json") == 0
    (shop,) = json.loads(capsys.readouterr().out)["datasets"]
    assert [a["kind"] for a in shop["artifacts"]] == ["raw", "data", "codes", "runs", "eval"], "with its inputs"
    assert shop["artifacts"][-1]["metric"] == {"name": "NDCG@10", "value": 0.0412}
    assert call(ws, "status", "absent") == 0
    assert "No artifact has 'absent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "step"), [([], "preprocess"), (["data"], "tokenize"), (["data", "codes"], "train")], ids=str
)
def test_the_next_step_is_the_next_stage(ws: Workspace, made: list[str], step: str) -> None:
    build(ws, "raw", "files")
    for kind in made:
        build(ws, kind, "x")
    assert next_step("shop", survey(ws, "shop")) == f"genrec {step} --dataset shop"


def test_nothing_yet_is_no_error(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(ws, "status") == 0 and call(ws, "list", "runs") == 0
    assert "genrec run quickstart" in capsys.readouterr().err


# ---- list ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*TABLE, *map(plural, TABLE)])
def test_every_registered_name_is_listed(ws: Workspace, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert call(ws, "list", kind, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    singular = {plural(name): name for name in TABLE}
    assert [entry["name"] for entry in entries] == list(TABLE[singular.get(kind, kind)])
    assert all(entry["what"] and entry["what"] != "its file is missing" for entry in entries)


def test_artifacts_and_data_sets_are_listed(
    ws: Workspace, pipeline: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("runs", "run", "codes", "code"):
        assert call(ws, "list", kind, "--json") == 0
        (entry,) = json.loads(capsys.readouterr().out)["entries"]
        assert entry["name"] == pipeline["codes" if kind.startswith("code") else "runs"].path.name
    assert call(ws, "list", "datasets", "--json") == 0
    shop, *others = json.loads(capsys.readouterr().out)["entries"]
    assert shop["name"] == "shop" and shop["artifacts"] == 5 and all(not other["artifacts"] for other in others)
    assert call(ws, "list", "recipes") == 0
    assert "quickstart" in capsys.readouterr().out


def test_a_list_for_people_has_readable_times_and_sizes(
    ws: Workspace, pipeline: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(ws, "list", "runs") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if pipeline["runs"].path.name in line]
    assert row.split()[-3:] == ["0", "s", "0.0"]


def test_the_help_names_every_kind_of_artifact() -> None:
    assert all(kind in cli_inspect.HELP for kind in KINDS)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("absent_package.model:Model", "ModuleNotFoundError: No module named 'absent_package'"),
        ("broken_plugin:Model", "RuntimeError: needs a licence"),
        ("genrec_cli.models.popular:Absent", "AttributeError: .* 'Absent'"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded_is_one_clear_error(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('needs a licence')")
    (tmp_path / "shop_models-1.0.dist-info").mkdir()
    (tmp_path / "shop_models-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-models\n")
    points = f"[genrec.models]\nmine = {target}\nrpg = absent:Rpg\n"
    (tmp_path / "shop_models-1.0.dist-info" / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names("model") == [*TABLE["model"], "mine"] and load("model", "popular").__name__ == "Popular"
    with pytest.raises(ConfigError, match=f"'mine' of the package shop-models cannot be loaded: {reason}") as caught:
        load("model", "mine")
    assert f"genrec.models is mine = {target}" in caught.value.message
    assert "pip uninstall shop-models" in str(caught.value.hint)
    with pytest.raises(UsageError, match="Did you mean 'mine'"):
        load("model", "min")
    assert call(ws, "list", "models") == 0, "it is still listed"


def test_the_code_of_a_plug_in_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from genrec_cli.models.popular import Popular\n\n\nclass Mine(Popular):\n    pass\n"
    module = tmp_path / "plugin_of_mine.py"
    module.write_text(source)
    (tmp_path / "mine-1.0.dist-info").mkdir()
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\n")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text("[genrec.models]\nmine = plugin_of_mine:Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert code_of(load("model", "popular")) == {}
    before = code_of(load("model", "mine"))
    assert before == {"code/plugin_of_mine": sha256_file(module)}
    module.write_text(f"{source}    # edited\n")
    assert code_of(load("model", "mine")) != before

    root = tmp_path / "artifacts"
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(root, *words).code == 0
    run = genrec(root, "train", "--model", "mine").path
    assert "up to date" in genrec(root, "train", "--model", "mine").err
    assert genrec(root, "evaluate", "--run", str(run)).code == 0
    module.write_text(f"{source}    # edited again\n")
    refused = genrec(root, "evaluate", "--run", str(run))
    assert refused.code == 4 and "was trained by other code of the model 'mine'" in refused.err
    assert genrec(root, "train", "--model", "mine").path != run


def test_an_unknown_kind_gets_a_suggestion(ws: Workspace) -> None:
    with pytest.raises(UsageError, match="Did you mean 'models'"):
        call(ws, "list", "modles")


def test_listing_imports_no_torch(ws: Workspace) -> None:
    script = (
        "import sys, typer\n"
        "from genrec_cli.cli import inspect\n"
        "app = typer.Typer(); inspect.register(app)\n"
        "for words in (['list', 'models'], ['list', 'recipes'], ['status']):\n"
        f"    app([*words, '--root', {str(ws.root)!r}], standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'polars', 'faiss'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], timeout=60)
    assert done.returncode == 0


# ---- doctor --------------------------------------------------------------------------------------------


def test_the_doctor_finds_this_machine_usable(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(ws, "doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["usable"] is True
    names = {check["name"] for check in facts["checks"]}
    assert {"Python", "torch build", "device", "bf16", "memory", "root", "disk", "encoder"} <= names
    assert not ws.root.exists(), "an examination leaves nothing behind"


def test_a_problem_has_a_remedy_and_exit_code_3(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_torch", lambda: iter([]))
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["nonesuch>=1.2", "numpy>=999", "x; extra == 'dev'"])
    checks = {check.name: check for check in doctor.examine(ws.root)}
    assert checks["nonesuch"].state == doctor.PROBLEM and "pip install" in str(checks["nonesuch"].remedy)
    assert checks["numpy"].state == doctor.PROBLEM and "older than 999" in checks["numpy"].found
    assert "x" not in checks
    assert call(ws, "doctor") == 3
    assert "pip install 'nonesuch>=1.2'" in capsys.readouterr().err


def test_a_root_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (check,) = doctor._disk(tmp_path / "file")
    assert check.state == doctor.PROBLEM and "--root" in str(check.remedy)


def test_a_cpu_build_beside_a_gpu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "_nvidia_visible", lambda: True)
    build = next(check for check in doctor._torch() if check.name == "torch build")
    assert build.state == doctor.NOTE and "CPU only" in build.found and "install" in str(build.remedy)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_only_emulates_bf16_should_keep_fp32(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    import torch

    for name, answer in (("is_available", True), ("device_count", 1), ("get_device_name", "a GPU")):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    check = next(check for check in doctor._torch() if check.name == "bf16")
    assert check.state == (doctor.OK if native else doctor.NOTE)


def test_the_encoder_is_looked_for_on_disk_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("GENREC_ENCODER", raising=False)
    assert doctor._encoder().state == doctor.NOTE and "GENREC_ENCODER=lsa" in str(doctor._encoder().remedy)
    (tmp_path / "hub" / "models--sentence-transformers--sentence-t5-base" / "snapshots").mkdir(parents=True)
    assert doctor._encoder().state == doctor.OK
    shutil.rmtree(tmp_path / "hub")
    for name in ("lsa", str(tmp_path)):
        monkeypatch.setenv("GENREC_ENCODER", name)
        assert doctor._encoder().state == doctor.OK


def test_errors_keep_their_codes(ws: Workspace) -> None:
    with pytest.raises(GenrecError) as caught:
        call(ws, "status", "--dataset", "absent")
    assert caught.value.exit_code == 4
