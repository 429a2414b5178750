"""Blends: the mixture against its definition, the choice of weights, and the command."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import make_catalog, make_histories
from shop import TINY, genrec, small_codes

from genrec_cli.config import Section
from genrec_cli.data.sequences import eval_batches
from genrec_cli.engine import blend_weights
from genrec_cli.engine.blend_weights import Candidates, best_weights, calibrated, candidates, fit, likeliest, ndcg
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.ranking import ExactRanker
from genrec_cli.models import blend as module
from genrec_cli.models.blend import Blend, Mixing, Part, recent
from genrec_cli.models.rpg import Rpg, RpgConfig
from genrec_cli.models.sasrec import SasRec, SasRecConfig
from genrec_cli.models.transitions import Transitions, TransitionsConfig
from genrec_cli.searches.exhaustive import Exhaustive
from genrec_cli.searches.scores import ChosenScores

CPU = torch.device("cpu")
CATALOG = make_catalog()
HISTORIES = make_histories([5, 9, 3, 14, 6, 4, 7, 12] * 4, CATALOG.items)


def parts() -> list[Part]:
    """A code model, a model of items that reads 4 items, and a count model."""
    torch.manual_seed(0)
    rpg = Rpg(RpgConfig(width=16, heads=2), CATALOG, max_length=8).eval()
    sasrec = SasRec(SasRecConfig(width=16, heads=2), CATALOG, max_length=4).eval()
    counts = Transitions(TransitionsConfig(), CATALOG, max_length=8)
    counts.fit(CATALOG, HISTORIES)
    exact = Exhaustive(CATALOG)
    scored = [lambda batch, model=model: exact.scored(model, batch) for model in (rpg, sasrec, counts)]
    options = [{"temperature": 0.5}, {}, {"counts": True, "floor": 0.2}]
    return [Part(s, n, **more) for s, n, more in zip(scored, (8, 4, 8), options, strict=True)]


def blend(chosen: list[Part], mixing: Mixing) -> Blend:
    model = Blend(Section(), CATALOG, max_length=8)
    model.parts, model.mixing = chosen, mixing
    return model


def known(split: str = "test", size: int = 7):
    return eval_batches(HISTORIES, *HISTORIES.targets(split), max_length=8, batch_size=size, exclude_seen=True)


def outcome(model: Blend):
    return evaluate(ExactRanker(model, CATALOG), known(), CPU, k=10)


@torch.no_grad()
def test_the_scores_are_those_of_the_definition(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    batch, (rpg, sasrec, counts) = next(iter(known())).batch, parts()
    logp = [(rpg.scored(batch).chunk(0, 99).t() / 0.5).log_softmax(1)]
    logp.append(sasrec.scored(recent(batch, 4)).chunk(0, 99).t().log_softmax(1))
    count_BI = counts.scored(batch).chunk(0, 99).t()
    share_BI = count_BI / count_BI.sum(1, keepdim=True).clamp_min(1e-30)
    logp.append((0.8 * share_BI + 0.2 / CATALOG.items).log())
    weight = (0.5, 0.3, 0.2)
    total = sum(w * x.exp() for w, x in zip(weight, logp, strict=True))
    score_BI = blend([rpg, sasrec, counts], Mixing("sum", (weight,))).item_scores(batch)
    torch.testing.assert_close(score_BI, total.log())
    product = sum(w * x for w, x in zip(weight, logp, strict=True))
    torch.testing.assert_close(blend([rpg, sasrec, counts], Mixing("product", (weight,))).item_scores(batch), product)
    bare = replace(counts, scored=lambda batch: Exhaustive(CATALOG).scored(Transitions(
        TransitionsConfig(), CATALOG, max_length=8), batch))  # fmt: skip
    assert blend([bare], Mixing("sum", ((1.0,),))).item_scores(batch).isfinite().all(), "histories without any count"


@torch.no_grad()
def test_chosen_items_are_scored_in_blocks(monkeypatch):
    monkeypatch.setattr(ChosenScores, "BLOCK", 8)
    batch, chosen_C = next(iter(known())).batch, torch.tensor([0, 3, 7, 8, 19])
    mixed = blend(parts(), Mixing("sum", ((0.5, 0.3, 0.2),)))
    score_BI = mixed.item_scores(batch)
    found = Exhaustive(CATALOG.take(chosen_C)).scored(mixed, batch)
    torch.testing.assert_close(found.chunk(1, 5), score_BI[:, chosen_C[1:]].t())
    item_B = torch.full((batch.packing.sequences,), 3)
    torch.testing.assert_close(found.of(item_B), score_BI[:, chosen_C[2]])


@pytest.mark.parametrize("form", ["sum", "product"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_weight_of_one_and_two_equal_parts_give_the_part(form, place):
    chosen = parts()
    alone = outcome(blend([chosen[place]], Mixing("sum", ((1.0,),))))
    weight = tuple(float(at == place) for at in range(3))
    for model in (
        blend(chosen, Mixing(form, (weight,))),
        blend([chosen[place]] * 2, Mixing(form, ((0.25, 0.75),))),
    ):
        other = outcome(model)
        for protocol, ranks in alone.ranks.items():
            assert (other.ranks[protocol].above + other.ranks[protocol].ties / 2 == ranks.above + ranks.ties / 2).all()
            torch.testing.assert_close(
                torch.from_numpy(other.ranks[protocol].score), torch.from_numpy(ranks.score), rtol=1e-4, atol=1e-4
            )
        assert other.loss == pytest.approx(alone.loss, abs=1e-4)


@torch.no_grad()
def test_a_part_is_the_model_on_its_own_length_and_batches_do_not_matter():
    model = blend(parts(), Mixing("sum", ((0.2, 0.3, 0.5), (0.6, 0.4, 0.0)), "length", (6,)))
    whole = next(iter(known(size=99)))
    score_BI = model.item_scores(whole.batch)
    rows = {int(row): score_BI[at] for at, row in enumerate(whole.row_B)}
    for one in known(size=1):
        torch.testing.assert_close(model.item_scores(one.batch)[0], rows[int(one.row_B)], rtol=1e-4, atol=1e-4)
    batch = whole.batch
    cut = recent(batch, 4)
    lists = [batch.item_N[batch.packing.sequence_N == b][-4:] for b in range(len(batch.user_B))]
    assert torch.equal(cut.item_N, torch.cat(lists)) and recent(batch, 99) is batch


def test_buckets_are_by_length_or_by_the_count_of_the_last_item():
    batch = next(iter(known())).batch
    count_I = torch.arange(CATALOG.items)
    by_length = Mixing("sum", ((1.0,), (1.0,)), "length", (5,)).bucket(batch, count_I)
    assert by_length.tolist() == [int(n >= 5) for n in batch.packing.length_B]
    by_count = Mixing("sum", ((1.0,), (1.0,), (1.0,)), "count", (10, 20)).bucket(batch, count_I)
    last = batch.item_N[batch.packing.last_B] - 1
    assert by_count.tolist() == [int(n >= 10) + int(n >= 20) for n in last]


def found(users: int = 400, seed: int = 0) -> Candidates:
    """The target is candidate 0. Part 0 knows it for short histories, part 1 for long ones, part 2 never."""
    generator = torch.Generator().manual_seed(seed)
    logp_PUX = torch.randn(3, users, 30, generator=generator) - 5
    long_U = torch.arange(users) % 4 > 1
    logp_PUX[0, ~long_U, 0] += 3
    logp_PUX[1, long_U, 0] += 3
    logp_PUX[2, :, 0] -= 3
    length_U = torch.where(long_U, 20, 3)
    return Candidates(logp_PUX, torch.ones(users, 30, dtype=torch.bool), length_U, torch.ones(users, dtype=torch.long))


def test_the_weights_are_the_best_of_the_simplex_and_the_same_each_time():
    sample = found()
    weight_P = best_weights(sample, "sum", 0)
    assert torch.equal(weight_P, best_weights(sample, "sum", 0)) and float(weight_P.sum()) == pytest.approx(1)
    grid = [torch.tensor([a, b, 10 - a - b]) / 10 for a in range(11) for b in range(11 - a)]
    assert ndcg(sample, "sum", weight_P).mean() >= max(ndcg(sample, "sum", w).mean() for w in grid) - 0.005
    likely_P = likeliest(sample)
    logp_PU = sample.logp_PUX[:, :, 0].double()
    value = [float((logp_PU + w.double().log()[:, None]).logsumexp(0).mean()) for w in [likely_P, *grid]]
    assert max(value) == value[0]


def test_buckets_are_kept_where_they_gain_and_only_there():
    mixing, facts = fit(found(), 0)
    assert mixing.by == "length" and facts["gain_by_length"] > 0.005 and "gain_by_count" not in facts
    short_P, long_P = (mixing.weight_GP[int(torch.bucketize(torch.tensor(n), torch.tensor(mixing.edges), right=True))]
                       for n in (3, 20))  # fmt: skip
    assert short_P[0] > short_P[1] and long_P[1] > long_P[0]
    sample = found()
    random = torch.randint(3, 20, sample.length_U.shape, generator=torch.Generator().manual_seed(1))
    assert fit(sample._replace(length_U=random), 0)[0].by == "none"


@pytest.mark.parametrize("form", ["sum", "product"])
def test_seen_items_are_no_candidates_if_they_are_excluded(form):
    chosen = [replace(part, floor=0.1) for part in parts()]
    weight_P = torch.tensor([0.3, 0.3, 0.4])
    ranked = outcome(blend(chosen, Mixing(form, (tuple(weight_P.tolist()),))))
    sample = candidates(chosen, known(), CATALOG.train_count_I)
    exact = ranked.means([10], protocol="left_out")["NDCG@10"]
    assert float(ndcg(sample, form, weight_P).mean()) == pytest.approx(exact, abs=1e-6)
    assert exact != ranked.means([10])["NDCG@10"], "the two protocols differ on these histories"
    assert likeliest(sample).isfinite().all()


def test_candidates_hold_the_exact_rank_and_calibration_the_best_temperature(monkeypatch):
    chosen = [replace(part, floor=0.0, temperature=1.0) for part in parts()]
    chosen = [calibrated(part, known("valid")) for part in chosen]
    assert chosen[0].temperature in blend_weights.TEMPERATURES and 0 < chosen[2].floor < 1
    assert chosen[0].floor == chosen[1].floor == 0
    model = blend(chosen, Mixing("sum", ((0.3, 0.3, 0.4),)))
    users = eval_batches(HISTORIES, *HISTORIES.targets("valid"), max_length=8, batch_size=7)
    exact = evaluate(ExactRanker(model, CATALOG), known("valid"), CPU, k=10).means([10])["NDCG@10"]
    sample = candidates(chosen, users, CATALOG.train_count_I)
    weight_P = torch.tensor([0.3, 0.3, 0.4])
    assert float(ndcg(sample, "sum", weight_P).mean()) == pytest.approx(exact, abs=1e-6)
    loss = [
        evaluate(ExactRanker(blend([replace(chosen[0], temperature=t)], Mixing("sum", ((1.0,),))), CATALOG),
                 known("valid"), CPU).loss.mean() for t in blend_weights.TEMPERATURES]  # fmt: skip
    assert chosen[0].temperature == blend_weights.TEMPERATURES[min(range(len(loss)), key=loss.__getitem__)]


# ---- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = small_codes(tmp_path_factory.mktemp("blend"))
    for words in (
        ["--model", "transitions"],
        ["--model", "rpg", *TINY, "--epochs", "2", "--curriculum", "inf"],
        ["--model", "sasrec", *TINY, "--epochs", "1", "--set", "train.max_length=5"],
        ["--model", "tiger", "--dry-run"],
    ):
        assert genrec(root, "train", *words).code == 0
    return root


def test_a_blend_is_a_run_for_every_command(shop):
    made = genrec(shop, "blend", "transitions-s0", "rpg-s0", "sasrec-s0", "--label", "three")
    content = json.loads((made.path / "blend.json").read_text())
    assert [row["run"].partition("-")[0] for row in content["parts"]] == ["transitions", "rpg", "sasrec"]
    assert all(math.isclose(sum(row), 1, abs_tol=1e-6) for row in content["weights"])
    assert sorted(made.manifest["inputs"]) == ["data", "part00", "part01", "part02"]
    assert genrec(shop, "blend", "transitions-s0", "rpg-s0", "sasrec-s0", "--label", "three").path == made.path
    again = genrec(shop, "blend", "transitions-s0", "rpg-s0", "sasrec-s0", "--label", "three", "--force")
    assert json.loads((again.path / "blend.json").read_text()) == content
    valid = again.manifest["result"]["valid"]
    assert max(valid["sum"], valid["product"]) >= max(valid["parts"]) - 1e-9
    evaluated = genrec(shop, "evaluate", "--run", "three", "--split", "valid")
    best = valid[content["form"]] if content["by"] == "none" else None
    if best is not None:
        assert evaluated.manifest["result"]["metrics"]["kept"]["NDCG@10"] == pytest.approx(best, abs=1e-3)
    for run in ("three", "transitions-s0"):
        assert genrec(shop, "evaluate", "--run", run).code == 0
    assert genrec(shop, "compare", "transitions-s0", "three").code == 0
    assert genrec(shop, "case-study", "three", "rpg-s0", "--set", "case_study.users=2").code == 0
    listed = genrec(shop, "recommend", "--run", "three", "--k", "3", "--json")
    assert listed.code == 0 and listed.out


def test_what_cannot_be_a_part_is_refused_and_a_changed_part_makes_the_blend_stale(shop):
    one = genrec(shop, "blend", "transitions-s0")
    assert one.code == 2 and "2 to 100 parts" in one.err
    assert "named twice" in genrec(shop, "blend", "rpg-s0", "rpg-s0").err
    assert genrec(shop, "train", "--model", "blend").code == 3
    made = genrec(shop, "blend", "transitions-s0", "rpg-s0")
    nested = genrec(shop, "blend", made.path.name, "sasrec-s0")
    assert nested.code == 2 and "is a blend itself" in nested.err
    weights = made.path / "blend.json"
    kept = weights.read_text()
    (rpg,) = (shop / "synthetic" / "runs").glob("rpg-s0-*")
    file = rpg / "model.safetensors"
    bytes_kept = file.read_bytes()
    file.write_bytes(bytes_kept[:-1] + bytes([bytes_kept[-1] ^ 1]))
    stale = genrec(shop, "evaluate", "--run", made.path.name)
    file.write_bytes(bytes_kept)
    assert stale.code != 0 and "rpg-s0" in stale.err and weights.read_text() == kept


def test_an_export_of_a_blend_recommends_alone(shop, tmp_path):
    words = ["transitions-s0", "rpg-s0", "sasrec-s0", "--label", "sent"]
    run = genrec(shop, "blend", *words).path.name
    folder = genrec(shop, "export", "sent", "--to", tmp_path / "sent").path
    assert [path.name for path in sorted(folder.glob("part*"))] == ["part00", "part01", "part02"]
    assert not (folder / "model.safetensors").exists() and (folder / "part01" / "codes.parquet").is_file()
    items = pl.read_parquet(folder / "items.parquet")["raw_id"].to_list()
    (tmp_path / "h.jsonl").write_text(json.dumps({"user": "x", "items": items[:7]}))
    words = ["--history", tmp_path / "h.jsonl", "--k", "5", "--json"]
    expected = json.loads(genrec(shop, "recommend", "--run", run, *words).out)["recommendations"]
    for moved in (folder, shutil.copytree(folder, tmp_path / "moved" / "here")):
        found = genrec(tmp_path / "empty", "recommend", "--run", moved, *words)
        assert found.code == 0, found.err
        assert json.loads(found.out)["recommendations"] == expected
    alone = genrec(tmp_path / "empty", "recommend", "--run", folder / "part01", *words)
    assert alone.code == 0, "a part is an export, too"
    refused = genrec(shop, "export", "sent", "--to", tmp_path / "onnx", "--onnx")
    assert refused.code == 2 and "no causal encoder" in refused.err


@pytest.mark.parametrize(
    "name, content", [("part01/config.json", "{}"), ("part00/model.safetensors", "x"), ("blend.json", "{}")]
)
def test_an_export_of_a_blend_with_a_changed_file_is_refused(shop, tmp_path, name, content):
    genrec(shop, "blend", "transitions-s0", "rpg-s0", "--label", "two")
    folder = genrec(shop, "export", "two", "--to", tmp_path / "two").path
    (folder / name).write_text(content)
    (tmp_path / "h.jsonl").write_text('{"user": "x", "items": ["B000000001"]}')
    answer = genrec(tmp_path / "empty", "recommend", "--run", folder, "--history", tmp_path / "h.jsonl")
    assert answer.code == 3 and Path(name).name in answer.err and "Traceback" not in answer.err


def test_a_blend_and_its_export_are_served_and_explained(shop, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx2")
    from fastapi.testclient import TestClient

    from genrec_cli.artifacts import Workspace
    from genrec_cli.serve.app import make_app
    from genrec_cli.serve.runs import ServedRuns, chosen

    genrec(shop, "blend", "transitions-s0", "rpg-s0", "--label", "two")
    folder = genrec(shop, "export", "two", "--to", tmp_path / "two").path
    ws, answers = Workspace(shop), []
    for name in ("two", str(folder)):
        runs = ServedRuns(ws, chosen(ws, "synthetic", [name]))
        items = runs.runs[0].names.item[:6]
        with TestClient(make_app(runs)) as client:
            answers.append(client.post("/explain", json={"history": items, "k": 3}).json())
    one, other = answers
    assert len(one["recommendations"]) == 3 and one["recommendations"] == other["recommendations"]
    assert all(len(row["without"]) == 6 for row in one["recommendations"])
    assert all(read["entropy"] is None for read in one["history"]), "a blend has no entropies"
