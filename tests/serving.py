"""A small shop with two runs, and a service of them."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shop import TINY, genrec, small_codes

from genrec_cli.artifacts import Workspace
from genrec_cli.serve.app import make_app
from genrec_cli.serve.runs import ServedRuns, chosen
from genrec_cli.serve.server import listening

MHL = ["train", "--model", "mhl", "--epochs", "1", "--device", "cpu", *TINY]


def small_runs(root: Path) -> Path:
    """The small shop with a run on codes and one that counts."""
    small_codes(root)
    for words in (MHL, ["train", "--model", "popular"]):
        answer = genrec(root, *words)
        assert answer.code == 0, answer.err
    return root


def served_runs(root: Path, *labels: str) -> ServedRuns:
    ws = Workspace(root)
    return ServedRuns(ws, chosen(ws, "synthetic", labels or ("mhl", "popular")))


@contextlib.contextmanager
def listening_service(root: Path, **options: Any) -> Iterator[str]:
    """The address of a service in a thread, on a free port."""
    import uvicorn

    with listening("127.0.0.1", 0) as at:
        app = make_app(served_runs(root), **options)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
