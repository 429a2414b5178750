"""The commands in one process, and a small shop for them to work on."""

import contextlib
import io
import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from genrec_cli import console
from genrec_cli.cli import main

SMALL_SHOP = ["download", "--dataset", "synthetic", "--set", "source.users=300", "--set", "source.items=150"]
SMALL_SHOP += ["--set", "source.text=0.0"]
TINY = ["--set", "model.width=16", "--set", "model.heads=2", "--set", "model.inner=16", "--set", "train.warmup_steps=2"]
"""Sizes at which an epoch of the small shop takes a fraction of a second."""
TINY_TIGER = [*TINY, "--set", "model.layers=1", "--set", "model.head_width=8", "--set", "search.beams=20"]
"""The same for a model that generates."""


class Answer(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        """The artifact whose path is all that stdout holds."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        return Path(self.out.strip())

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / "manifest.json").read_text())


def genrec(root: Path, *words: str | Path) -> Answer:
    """Run ``genrec WORDS`` in this process; the root and the offline encoder come from the environment."""
    out, err = io.StringIO(), io.StringIO()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GENREC_")}
    terminate = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.dict(os.environ, kept | {"GENREC_ROOT": str(root), "GENREC_ENCODER": "lsa"}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            signal.signal(signal.SIGTERM, terminate)
            console.configure()
    return Answer(code, out.getvalue(), err.getvalue())


def small_codes(root: Path) -> Path:
    """The small shop up to its codes, 4 digits of 16."""
    for words in (
        SMALL_SHOP,
        ["preprocess", "--k-core", "2"],
        ["tokenize", "--encoder", "lsa", "--codebooks", "4", "--codewords", "16"],
    ):
        assert genrec(root, *words).code == 0
    return root
