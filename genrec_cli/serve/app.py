"""The routes of the service."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi import Path as InPath
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from genrec_cli import __version__, errors
from genrec_cli.serve import problems, schema
from genrec_cli.serve.batching import Batcher
from genrec_cli.serve.explanation import Dropped
from genrec_cli.serve.guard import Guard
from genrec_cli.serve.lists import Job, TopList
from genrec_cli.serve.metrics import CONTENT_TYPE, Metrics
from genrec_cli.serve.runs import ServedRuns
from genrec_cli.serve.served import ServedRun

PAGE = Path(__file__).with_name("page")
STATUSES = {400: "No JSON", 404: "Unknown name", 413: "Too large", 422: "Refused", 429: "Too many requests"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": schema.Problem, "description": text} for code, text in STATUSES.items()
}

Text = Annotated[str, Query(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=schema.MAX_FOUND)]
Run = Annotated[str | None, Query(max_length=256, description="Name or label of a run. Default: the first one.")]
Name = Annotated[str, InPath(min_length=1, max_length=256)]


def make_app(runs: ServedRuns, *, size: int = 64, wait: float = 0.002, watch: float = 0.0) -> FastAPI:
    """The application.

    Args:
        size: the most histories of a batch.
        wait: seconds that an idle service waits for more histories.
        watch: seconds between two looks for newer runs; 0: none.
    """
    metrics = Metrics()
    batcher: Batcher[tuple[ServedRun, Job], TopList] = Batcher(
        lists_of, size=size, wait=wait, on_batch=metrics.batches.observe
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        tasks = [asyncio.create_task(runs.watch(metrics, watch))] if watch else []
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.stop()

    app = FastAPI(title="genrec", version=__version__, lifespan=lifespan, redoc_url=None, docs_url=None)
    app.add_middleware(Guard, metrics=metrics)
    problems.install(app)

    @app.post("/recommend", responses=PROBLEMS)
    async def recommend(body: schema.RecommendBody) -> schema.Recommended:
        """Lists for histories or for known users."""
        served = runs.of(body.run)
        served.refuse_longer(body.k)
        if (body.histories is None) == (body.users is None):
            raise errors.UsageError("Give either histories or users.", hint='{"histories": [["ITEM", "ITEM"]]}')
        allowed_R = None
        if body.candidates or body.where:
            allowed_R = await asyncio.to_thread(served.only, body.candidates, body.where)
        if body.histories is not None:
            served.refuse_histories()
            served.ids([raw for history in body.histories for raw in history])  # names all unknown items at once
            whom: list[dict[str, Any]] = [{"history": served.ids(history)} for history in body.histories]
        else:
            whom = [{"user": row} for row in served.user_rows(body.users or [])]
        jobs = [Job(body.k, body.exclude_seen, allowed_R=allowed_R, **one) for one in whom]
        lists = await batcher.ask([(served, job) for job in jobs])
        return schema.Recommended(run=served.run.name, lists=[listed(served, one) for one in lists])

    @app.post("/explain", responses=PROBLEMS)
    async def explain(body: schema.ExplainBody) -> schema.Explained:
        """A list, its ranks without each item of the history, and the entropies of the model at each item."""
        served = runs.of(body.run)
        served.refuse_longer(body.k)
        served.refuse_histories()
        plan = Dropped.plan(served, served.ids(body.history), body.k, exclude_seen=body.exclude_seen)
        lists = await batcher.ask([(served, job) for job in plan.jobs])
        read = plan.history.astype(int).tolist()
        entropies = await batcher.call(served.entropies, read) or [None] * len(read)
        history = [schema.Read(**named(served, item), entropy=nats) for item, nats in zip(read, entropies, strict=True)]
        weighed = [
            schema.Weighed(**dict(item), rank=rank, without=without)
            for rank, (item, without) in enumerate(zip(listed(served, lists[0]), plan.ranks(lists), strict=True), 1)
        ]
        return schema.Explained(run=served.run.name, history=history, recommendations=weighed, depth=plan.depth)

    @app.get("/items", responses=PROBLEMS)
    def items(q: Text = "", limit: Limit = 20, run: Run = None) -> list[schema.Found]:
        """Items whose title holds all words of ``q``, popular items first; without ``q`` the most popular items."""
        served = runs.of(run)
        return [found(served, item) for item in served.search(q, limit)]

    @app.get("/users", responses=PROBLEMS)
    def users(q: Text = "", limit: Limit = 20, run: Run = None) -> list[str]:
        """Users whose raw id begins with ``q``."""
        served = runs.of(run)
        return [served.names.user[row] for row in served.search_users(q, limit)]

    @app.get("/users/{user:path}", responses=PROBLEMS)
    def history_of(user: Name, run: Run = None) -> list[schema.Found]:
        """The history of a known user, the oldest item first."""
        served = runs.of(run)
        return [found(served, item) for item in served.user_history(served.user_rows([user])[0]).tolist()]

    @app.get("/similar/{item:path}", responses=PROBLEMS)
    def similar(item: Name, limit: Limit = 10, run: Run = None) -> schema.Similar:
        """Neighbours of an item: by shared digits of the codes, and by the text vectors."""
        served = runs.of(run)
        own = int(served.ids([item])[0])
        codes = by_codes = by_text = None
        if served.codes_IK is not None:
            codes = served.codes_of(own)
            by_codes = [
                schema.SharedDigits(**named(served, other), codes=served.codes_of(other), shared=shared)
                for other, shared in served.by_codes(own, limit)
            ]
        if served.unit_ID is not None:
            pairs = served.by_text(own, limit)
            by_text = [schema.Alike(**named(served, other), similarity=cosine) for other, cosine in pairs]
        return schema.Similar(
            **named(served, own), run=served.run.name, codes=codes, by_codes=by_codes, by_text=by_text
        )

    @app.get("/health")
    def health() -> schema.Health:
        """Whether the service answers, and its runs."""
        first = runs.runs[0]
        facts = [served.facts() for served in runs.runs]
        return schema.Health(status="ok", runs=facts, items=first.items, users=len(first.names.user))

    @app.get("/metrics", response_class=PlainTextResponse)
    def show_metrics() -> PlainTextResponse:
        """Metrics in the text format of Prometheus."""
        metrics.waiting.set(batcher.waiting)
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def lists_of(asked: Sequence[tuple[ServedRun, Job]]) -> list[TopList]:
    """The lists of a batch, run by run."""
    made: dict[int, TopList] = {}
    order = sorted(range(len(asked)), key=lambda place: id(asked[place][0]))
    for _, group in groupby(order, key=lambda place: id(asked[place][0])):
        places = list(group)
        lists = asked[places[0]][0].maker.lists([asked[place][1] for place in places])
        made |= dict(zip(places, lists, strict=True))
    return [made[place] for place in range(len(asked))]


def named(served: ServedRun, item: int) -> dict[str, Any]:
    """Raw id and title of an item."""
    return {"item": served.names.item[item - 1], "title": served.names.title[item - 1]}


def found(served: ServedRun, item: int) -> schema.Found:
    """An item as the answer of a look-up."""
    return schema.Found(**named(served, item), train_count=int(served.train_count_I[item - 1]))


def listed(served: ServedRun, top: TopList) -> list[schema.Listed]:
    """A list with raw ids and titles."""
    pairs: Iterable[tuple[Any, Any]] = zip(top[0].tolist(), top[1].tolist(), strict=True)
    return [schema.Listed(**named(served, item), score=score) for item, score in pairs]
