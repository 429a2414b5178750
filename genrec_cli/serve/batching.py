"""Micro-batches: requests that wait at the same time are answered by one pass of the model.

An asyncio queue and one worker thread. While the thread works, requests gather; it then takes up to ``size`` of them.
If it is idle, it waits while more arrive: until a turn of the event loop brings none, at most ``wait`` seconds. So a
single request does not wait, and fifty that arrive together are one pass.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")

MAX_WAITING = 4_096
"""Questions in the queue. More are refused, since their answers would come too late."""


class Busy(Exception):
    """The queue is full."""


class Batcher(Generic[Question, Answer]):
    """Answers questions in batches.

    Args:
        work: from the questions of a batch to their answers; it is called in the worker thread.
        size: the most questions of a batch.
        wait: the most seconds to wait while more questions arrive.
        on_batch: called with the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Question]], Sequence[Answer]],
        *,
        size: int,
        wait: float,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.work, self.size, self.wait, self.on_batch = work, size, wait, on_batch
        self._queue: asyncio.Queue[tuple[Question, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begin to answer. Called in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._answer())

    async def stop(self) -> None:
        """End the task and the thread."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to questions of one request. Raises Busy if the queue is full."""
        if self.waiting + len(questions) > MAX_WAITING:
            raise Busy
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in questions]
        for pair in zip(questions, futures, strict=True):
            self._queue.put_nowait(pair)
        return list(await asyncio.gather(*futures))

    async def call(self, function: Callable[Arguments, Any], *values: Arguments.args, **named: Arguments.kwargs) -> Any:
        """Call a function in the worker thread, between two batches: a model works in one thread at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*values, **named))

    async def _answer(self) -> None:
        while True:
            batch = await self._next_batch()
            questions, futures = zip(*batch, strict=True)
            self.on_batch(len(batch))
            try:
                answers: Sequence[Any] = await self.call(self.work, questions)
            except Exception as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, answer in zip(futures, answers, strict=True):
                if not future.done():  # its client may have left
                    future.set_result(answer)

    async def _next_batch(self) -> list[tuple[Question, asyncio.Future[Answer]]]:
        batch = [await self._queue.get()]
        seen, until = -1, time.monotonic() + self.wait
        while seen < self.waiting < self.size - 1 and time.monotonic() < until:
            seen = self.waiting
            await asyncio.sleep(0)
        while len(batch) < self.size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch
