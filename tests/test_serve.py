"""The service: every route, limits, unknown names, candidates, exchange of a run under load, its OpenAPI."""

import asyncio
import gc
import json
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("httpx2")  # what the test client of starlette sends with

from fastapi.testclient import TestClient
from serving import MHL, listening_service, served_runs, small_runs
from shop import genrec

from genrec_cli.artifacts import Workspace
from genrec_cli.errors import InputError
from genrec_cli.serve import batching, schema
from genrec_cli.serve.app import make_app
from genrec_cli.serve.batching import Batcher, Busy
from genrec_cli.serve.explanation import Dropped
from genrec_cli.serve.lists import Job
from genrec_cli.serve.metrics import Histogram, Metric, Metrics
from genrec_cli.serve.runs import ServedRuns, chosen
from genrec_cli.serve.server import listening, set_imports_aside
from genrec_cli.stages.candidates import item_columns


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return small_runs(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def runs(root):
    return served_runs(root)


@pytest.fixture(scope="module")
def client(runs):
    with TestClient(make_app(runs, wait=0.001)) as client:
        yield client


@pytest.fixture(scope="module")
def names(runs):
    return runs.runs[0].names


def recommend(client, **body):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return [[item["item"] for item in one] for one in answer.json()["lists"]]


def refused(client, status=422, **body):
    answer = client.post("/recommend", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


# ---- lists ----


def test_lists_are_those_of_the_command(client, root, names, tmp_path):
    history = tmp_path / "histories.jsonl"
    given = {"a": names.item[:3], "b": names.item[5:6]}
    history.write_text("".join(json.dumps({"user": user, "items": items}) + "\n" for user, items in given.items()))
    answer = genrec(root, "recommend", "--run", "mhl", "--history", history, "-k", "4", "--exclude-seen", "--json")
    rows = json.loads(answer.out)["recommendations"]
    wanted = [[row["item"] for row in rows if row["user"] == user] for user in given]
    assert recommend(client, histories=list(given.values()), k=4) == wanted
    assert recommend(client, histories=[given["b"]], k=4) == wanted[1:]


def test_known_users_and_the_run(client, root, names, tmp_path):
    users = [names.user[4], names.user[1], names.user[4]]
    (tmp_path / "users.txt").write_text("\n".join(users[:2]))
    answer = genrec(
        root, "recommend", "--run", "popular", "--users", tmp_path / "users.txt", "-k", "3", "--json", "--keep-seen"
    )
    rows = json.loads(answer.out)["recommendations"]
    wanted = [[row["item"] for row in rows if row["user"] == user] for user in users]
    assert recommend(client, users=users, k=3, run="popular", exclude_seen=False) == wanted


def test_seen_items_are_left_out_or_kept(client, names):
    history = names.item[:20]
    assert not set(recommend(client, histories=[history], k=150)[0]) & set(history)
    assert set(history) <= set(recommend(client, histories=[history], k=150, exclude_seen=False)[0])


def test_candidates_are_ranked_as_in_the_whole_list(client, names):
    whole = recommend(client, histories=[names.item[:2]], k=len(names.item))[0]
    candidates = whole[-1:] + whole[40:43] + names.item[:1]  # the last places, and one that was seen
    wanted = [item for item in whole if item in candidates]
    assert recommend(client, histories=[names.item[:2]], candidates=candidates)[0] == wanted
    assert recommend(client, histories=[names.item[:2]], candidates=candidates, k=1)[0] == wanted[:1]


def test_conditions_over_columns(client, root, runs, names):
    table = item_columns(runs.runs[0].run.data)
    assert table["raw_id"].to_list() == names.item and "brand" in table.columns
    allowed = set(table.filter(table["train_count"] > 5)["raw_id"])
    got = recommend(client, histories=[names.item[:1]], k=150, where="train_count > 5")[0]
    assert set(got) == allowed - {names.item[0]}
    brand = table["brand"][0]
    only = recommend(client, histories=[names.item[1:2]], k=150, where=f"brand = '{brand}'", candidates=names.item)[0]
    assert set(only) == set(table.filter(table["brand"] == brand)["raw_id"]) - {names.item[1]}


@pytest.mark.parametrize(
    ("where", "word"),
    [("price <", "is not an SQL"), ("colour = 'red'", "no column 'colour'"), ("train_count", "not true or false"),
     ("read_csv('/etc/passwd')", "where")],
)  # fmt: skip
def test_a_wrong_condition_is_refused(client, names, where, word):
    assert word in refused(client, histories=[names.item[:1]], where=where)["error"]


def test_jobs_of_every_kind_in_one_batch(runs, names):
    maker = runs.runs[0].maker
    rng = np.random.default_rng(0)
    jobs = []
    for _ in range(40):
        history = rng.integers(1, len(names.item) + 1, rng.integers(1, 30)).astype("uint32")
        allowed = rng.random(len(names.item) + 1) < 0.1 if rng.random() < 0.5 else None
        whom = {"user": int(rng.integers(20))} if rng.random() < 0.5 else {"history": history}
        jobs.append(Job(int(rng.integers(1, 30)), bool(rng.random() < 0.5), allowed_R=allowed, **whom))
    for job, (items, scores) in zip(jobs, maker.lists(jobs), strict=True):
        alone, alone_scores = maker.lists([job])[0]
        np.testing.assert_allclose(scores, alone_scores, rtol=1e-3, atol=1e-3)
        assert len(items) == len(alone) and len(set(items.tolist()) & set(alone.tolist())) >= len(items) - 1


def test_a_seen_candidate_does_not_make_the_list_longer_and_longer(runs, names, monkeypatch):
    maker, pools = runs.runs[0].maker, []
    inner = maker._pools
    monkeypatch.setattr(maker, "_pools", lambda jobs, pool: (pools.append(pool), inner(jobs, pool))[1])
    allowed = np.zeros(len(names.item) + 1, dtype=bool)
    ((best, _),) = maker.lists([Job(5, True, np.array([1, 2], dtype="uint32"))])
    allowed[best[:4]] = True
    allowed[1] = True  # in the history
    pools.clear()
    ((items, _),) = maker.lists([Job(5, True, np.array([1, 2], dtype="uint32"), allowed_R=allowed)])
    assert items.tolist() == best[:4].tolist() and pools == [5]


# ---- explanations and look-ups ----


def test_an_explanation_leaves_out_each_item(client, names):
    history = names.item[3:7]
    body = client.post("/explain", json={"history": history, "k": 5}).json()
    assert [one["item"] for one in body["history"]] == history
    assert all(len(one["entropy"]) == 4 and min(one["entropy"]) > 0 for one in body["history"])
    listed = [one["item"] for one in body["recommendations"]]
    assert [listed] == recommend(client, histories=[history], k=5)
    for left_out in range(4):
        shorter = recommend(client, histories=[np.delete(history, left_out).tolist()], k=150)[0]
        shorter = [item for item in shorter if item != history[left_out]][: body["depth"]]
        ranks = [shorter.index(item) + 1 if item in shorter else None for item in listed]
        assert [one["without"][left_out] for one in body["recommendations"]] == ranks


def test_an_explanation_of_one_item_and_of_counts(client, names):
    body = client.post("/explain", json={"history": names.item[:1], "run": "popular", "k": 3}).json()
    assert body["history"][0]["entropy"] is None
    assert [one["without"] for one in body["recommendations"]] == [[1], [2], [3]]


def test_only_the_last_items_are_left_out_in_turn(runs, monkeypatch):
    monkeypatch.setattr("genrec_cli.serve.explanation.MAX_EXPLAINED", 2)
    plan = Dropped.plan(runs.runs[0], np.arange(1, 6, dtype="uint32"), 3, exclude_seen=True)
    assert [job.history.tolist() for job in plan.jobs[1:]] == [[1, 2, 3, 5], [1, 2, 3, 4]]
    assert plan.ranks([(np.array([9]), None), (np.array([7, 9]), None), (np.array([7]), None)]) == [[1, 1, 1, 2, None]]


def test_search_by_title_and_users(client, names):
    title = names.title[0]
    words = title.upper().split()[:2]
    found = client.get("/items", params={"q": " ".join(words)}).json()
    assert names.item[0] in [one["item"] for one in found]
    assert all(word.lower() in one["title"].lower() for one in found for word in words)
    assert client.get("/items", params={"q": names.item[9]}).json()[0]["item"] == names.item[9]
    counts = [one["train_count"] for one in client.get("/items", params={"limit": 50}).json()]
    assert counts == sorted(counts, reverse=True) and len(counts) == 50
    assert client.get("/items", params={"q": "no such title"}).json() == []
    assert names.user[3] in client.get("/users", params={"q": names.user[3]}).json()
    history = client.get(f"/users/{names.user[3]}").json()
    assert len(history) >= 2 and history[0]["item"] in names.item


def test_similar_items(client, runs, names):
    answer = client.get(f"/similar/{names.item[4]}", params={"limit": 150 // 2}).json()
    codes = runs.runs[0].codes_IK.numpy()
    assert answer["codes"] == codes[4].tolist()
    for other in answer["by_codes"]:
        assert other["shared"] == (codes[names.item.index(other["item"])] == codes[4]).sum() > 0
    shared = [other["shared"] for other in answer["by_codes"]]
    assert shared == sorted(shared, reverse=True)
    cosines = [other["similarity"] for other in answer["by_text"]]
    assert cosines == sorted(cosines, reverse=True) and max(cosines) <= 1.0001 and len(cosines) == 75
    assert names.item[4] not in [other["item"] for other in answer["by_text"] + answer["by_codes"]]
    popular = client.get(f"/similar/{names.item[4]}", params={"run": "popular"}).json()
    assert popular["codes"] is popular["by_codes"] is None


def test_health_metrics_and_openapi(client, names):
    facts = client.get("/health").json()
    assert facts["status"] == "ok" and facts["items"] == len(names.item)
    assert [run["label"] for run in facts["runs"]] == ["mhl-s0", "popular-s0"]
    assert facts["runs"][0]["explains_entropy"] and facts["runs"][0]["digits"] == 4
    recommend(client, histories=[names.item[:1]])
    text = client.get("/metrics").text
    assert 'genrec_requests_total{route="/recommend",status="200"}' in text
    assert 'genrec_batch_histories_bucket{le="+Inf"}' in text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/recommend", "/explain", "/items", "/users", "/similar/{item}", "/health", "/metrics"} <= paths.keys()


def test_text_of_metrics():
    histogram = Histogram("h", "Help.", (1, 2))
    for value in (0.5, 2, 9):
        histogram.observe(value)
    assert histogram.samples() == [
        'h_bucket{le="1"} 1',
        'h_bucket{le="2"} 2',
        'h_bucket{le="+Inf"} 3',
        "h_sum 11.5",
        "h_count 3",
    ]
    counter = Metric("c", "Help.")
    counter.add(route='a"\n')
    assert counter.samples() == ['c{route="a\\"\\n"} 1']
    assert "# TYPE genrec_swaps_total counter" in Metrics().text()


# ---- errors ----


@pytest.mark.parametrize(
    "body",
    [
        {}, {"histories": []}, {"histories": [[]]}, {"histories": [["x"]], "users": ["y"]}, {"histories": "x"},
        {"histories": [["x"] * (schema.MAX_ITEMS + 1)]}, {"histories": [["x"]] * (schema.MAX_HISTORIES + 1)},
        {"histories": [["x" * 257]]}, {"histories": [["x"]], "k": 0}, {"histories": [["x"]], "k": schema.MAX_K + 1},
        {"histories": [["x"]], "k": "10"}, {"histories": [["x"]], "k": True}, {"histories": [["x"]], "more": 1},
        {"histories": [[7]]}, {"histories": [["x"]], "candidates": []}, {"histories": [["x"]], "exclude_seen": 1},
    ],
)  # fmt: skip
def test_limits(client, body):
    assert refused(client, **body)["error"]


def test_unknown_names_are_named(client, names):
    problem = refused(client, histories=[[names.item[0], "nope"], ["nada", "nope"]])
    assert problem["unknown"] == ["nope", "nada"] and "'nope', 'nada'" in problem["error"]
    assert refused(client, users=["nobody"])["unknown"] == ["nobody"]
    assert refused(client, histories=[names.item[:1]], candidates=["nope"])["unknown"] == ["nope"]
    assert len(refused(client, histories=[[f"n{n}" for n in range(40)]])["unknown"]) == 10
    assert "mhl-s0" in refused(client, 404, histories=[names.item[:1]], run="mlh")["hint"]
    for path in ("/similar/nope", "/users/nope", "/nothing", "/similar/a/b", "/page/../app.py"):
        assert client.get(path).status_code == 404, path
    assert client.get("/similar/nope").json()["unknown"] == ["nope"]
    assert client.get("/items", params={"limit": 0}).status_code == 422
    assert client.put("/recommend").status_code == 405


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"histories": [["\\ud800"]]}', b'{"histories": [["\\u0000"]]}',
     b'{"histories": [["x"]], "k": 1e999}', b'{"histories": [["x"]], "k": NaN}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_request(client, content):
    answer = client.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422 or answer.status_code == 400, answer.text
    assert answer.json()["error"] and "Traceback" not in answer.text


@pytest.mark.parametrize(
    "kind, content, said",
    [
        ("application/json", b"{", "The body is no JSON: "),
        ("text/plain", b"{}", "The body has the Content-Type text/plain, "),
        ("", b"{}", "The body has no Content-Type, "),
    ],
)
def test_a_body_that_is_no_json_is_status_400(client, kind, content, said):
    answer = client.post("/recommend", content=content, headers={"content-type": kind} if kind else {})
    assert answer.status_code == 400 and answer.json()["error"].startswith(said), answer.text
    assert said.startswith("The body is") or answer.json()["hint"] == "Send the header Content-Type: application/json"


def test_large_bodies_are_refused(client):
    assert client.post("/recommend", content=b" " * (schema.MAX_BODY + 1)).status_code == 413
    parts = (b" " * 100_000 for _ in range(20))
    answer = client.post("/recommend", content=parts)
    assert answer.status_code == 413 and "bytes" in answer.json()["error"]


def test_a_bug_is_an_answer_without_a_traceback(runs, names, monkeypatch):
    with TestClient(make_app(runs), raise_server_exceptions=False) as client:
        monkeypatch.setattr(runs.runs[0].maker, "lists", lambda jobs: 1 / 0)
        answer = client.post("/recommend", json={"histories": [names.item[:1]]})
        assert answer.status_code == 500 and "bug in genrec" in answer.json()["error"]
        monkeypatch.undo()
        recommend(client, histories=[names.item[:1]])


# ---- its OpenAPI ----


def test_answers_are_those_of_its_openapi(root, monkeypatch):
    """Random requests, most of them malformed: never a 5xx, and every answer has its documented form."""
    pytest.importorskip("schemathesis")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    from malformed import check_service

    with listening_service(root, wait=0.0) as url:
        assert check_service(url, examples=6).total() >= 40


# ---- batches ----


def test_requests_that_wait_are_one_batch():
    sizes = []

    async def main():
        batcher = Batcher(lambda asked: [2 * x for x in asked], size=8, wait=0.01, on_batch=sizes.append)
        batcher.start()
        answers = await asyncio.gather(*(batcher.ask([n]) for n in range(20)))
        await batcher.stop()
        return answers

    assert asyncio.run(main()) == [[2 * n] for n in range(20)]
    assert sizes == [8, 8, 4]


@pytest.mark.parametrize(("wait", "sizes"), [(60.0, [5]), (0.0, [1, 4])])
def test_a_pass_waits_while_requests_arrive(wait, sizes):
    """One request per turn of the event loop. A pass that waited all of its 60 seconds would end the test."""
    seen = []

    async def later(batcher, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return await batcher.ask([turns])

    async def main():
        batcher = Batcher(lambda asked: time.sleep(0.2) or asked, size=8, wait=wait, on_batch=seen.append)
        batcher.start()
        answers = await asyncio.wait_for(asyncio.gather(*(later(batcher, turns) for turns in range(5))), 30)
        await batcher.stop()
        return answers

    assert asyncio.run(main()) == [[turns] for turns in range(5)]
    assert seen == sizes


def test_a_full_queue_refuses(monkeypatch):
    monkeypatch.setattr(batching, "MAX_WAITING", 3)

    async def main():
        batcher = Batcher(lambda asked: asked, size=8, wait=0.0)
        with pytest.raises(Busy):
            await batcher.ask([1, 2, 3, 4])

    asyncio.run(main())


def test_too_many_histories_are_refused_for_now(runs, names, monkeypatch):
    monkeypatch.setattr(batching, "MAX_WAITING", 1)
    with TestClient(make_app(runs)) as client:
        answer = client.post("/recommend", json={"histories": [names.item[:1]] * 2})
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"


# ---- newer runs ----


def test_a_newer_run_takes_over_without_a_dropped_request(root, names):
    runs = served_runs(root, "mhl")
    first, stop, statuses, seen = runs.runs[0].run.name, threading.Event(), [], set()
    with TestClient(make_app(runs, watch=0.05)) as client:

        def load():
            while not stop.is_set():
                answer = client.post("/recommend", json={"histories": [names.item[:2]]})
                statuses.append(answer.status_code)
                seen.add(answer.json()["run"])

        with ThreadPoolExecutor(3) as pool:
            for _ in range(3):
                pool.submit(load)
            try:
                second = genrec(root, *MHL, "--set", "train.lr=0.002").path.name
                until = time.monotonic() + 60
                while second not in seen and time.monotonic() < until:
                    time.sleep(0.02)
            finally:
                stop.set()
        text = client.get("/metrics").text
    assert seen == {first, second} and set(statuses) == {200} and len(statuses) > 10
    assert "genrec_swaps_total 1" in text

    ws = runs.ws
    assert chosen(ws, "synthetic", ["mhl-s0"], watch=True)[0].name == second
    with pytest.raises(InputError, match="2 runs of 'synthetic' match"):
        chosen(ws, "synthetic", ["mhl-s0"], watch=False)

    # A run that cannot be loaded is warned about once, and the one in service stays.
    third = genrec(root, *MHL, "--set", "train.lr=0.003").path
    metrics = Metrics()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_loaded", lambda artifact, device: 1 / 0)
        runs.swap(metrics)
        runs.swap(metrics)
    assert runs.runs[0].run.name == second and metrics.failed.samples() == ["genrec_failed_swaps_total 1"]
    (third / "best.safetensors").write_bytes(b"changed")
    assert runs.newer() == []


def test_a_run_that_was_exchanged_is_freed(root):
    """What was imported is out of the garbage collection; runs that are loaded later are not."""
    try:
        set_imports_aside()
        assert gc.get_freeze_count() > 100_000
        runs = served_runs(root, "popular")
        old = weakref.ref(runs.runs[0].run.model)
        runs.runs[0] = served_runs(root, "popular").runs[0]
        gc.collect()
        assert old() is None
    finally:
        gc.unfreeze()


# ---- the command ----


def test_an_export_is_served_as_its_run(root, client, names, tmp_path):
    answer = genrec(root, "export", "mhl-s0", "--to", tmp_path / "export")
    if answer.code:
        answer = genrec(root, "export", client.get("/health").json()["runs"][0]["name"], "--to", tmp_path / "export")
    assert answer.code == 0, answer.err
    exported = ServedRuns(Workspace(tmp_path), chosen(Workspace(tmp_path), None, [str(tmp_path / "export")]))
    with TestClient(make_app(exported)) as other:
        for body in ({"k": 5}, {"k": 5, "where": "train_count > 5"}):
            asked = body | {"histories": [names.item[2:6]]}
            assert recommend(other, **asked) == recommend(client, **asked)
        assert refused(other, users=[names.user[0]])["unknown"] == [names.user[0]]
        assert other.get(f"/similar/{names.item[0]}").json()["codes"]
    assert exported.newer() == []


def test_an_export_with_other_items_or_of_the_same_run_is_refused(root, tmp_path):
    small = ["download", "--dataset", "synthetic", "--set", "source.users=200", "--set", "source.items=130"]
    export = ["export", "popular-s0", "--to", tmp_path / "other"]
    for words in (small, ["preprocess"], ["train", "--model", "popular"], export):
        assert (answer := genrec(tmp_path / "root", *words)).code == 0, answer.err
    assert genrec(root, "export", "popular-s0", "--to", tmp_path / "same").code == 0
    for folder, said in (("other", "has other items than"), ("same", "is named twice")):
        answer = genrec(root, "serve", "popular-s0", tmp_path / folder, "--dataset", "synthetic", "--dry-run")
        assert answer.code == 2 and said in answer.err and str(tmp_path / folder) in answer.err, answer.err


def test_the_command_names_its_faults(root):
    with listening("127.0.0.1", 0) as taken:
        answer = genrec(root, "serve", "popular", "--port", str(taken.getsockname()[1]))
    assert answer.code == 4 and "cannot listen" in answer.err and "--port" in answer.err
    assert genrec(root, "serve", "nothing").code == 4
    assert genrec(root, "serve", "popular", "popular").code == 2
    dry = genrec(root, "serve", "popular", "--dry-run", "--json")
    assert json.loads(dry.out)["state"] == "would be served"
