"""Ours against other libraries: whole training and evaluation on the same histories, in alternating runs.

    python bench/peers.py --data ARTIFACT --codes ARTIFACT --digit-codes ARTIFACT --peers FOLDER [--users 2000] [--json]

RPG and TIGER against cornac's, with the same codes, SASRec, HSTU and BERT4Rec against RecTools', GRU4Rec against
cornac's, Caser, HGN, FDSA and S3-Rec's pre-training against RecBole's: the same users, batch, width, layers and epochs,
exact ranking of the whole catalogue or as many beams. GRU4Rec has a softmax over the target and 2,112 sampled items on
both sides; cornac's are 2,048 and the 64 targets of the batch. Its step learns one target of each row, ours all of
them. TIGER's codes end in a digit against collisions (``--digit-codes``, such as rqvae's). Each run is a process of its
own; imports and reading are not timed. Metrics of both are printed, so that equal work is visible. A library lives in
an environment of its own: ``FOLDER/cornac`` is made with pip if ``--install`` is given; ``--peer-python cornac=PATH``
names one that is there. What is absent is skipped with a line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from comparison import Comparison, report

from genrec_cli.data.sequences import Histories

CONTENDERS = Path(__file__).parent / "contenders"
TORCH = "torch==2.13.0"
PINS = {
    "cornac": ["cornac==3.0.1", "transformers==4.57.1"],
    "rectools": ["rectools[torch]==0.19.0"],
    "recbole": ["recbole==1.2.1", "numpy==1.26.4", "pandas==2.2.3"],
}
ITEMS = {
    "width": 128,
    "layers": 2,
    "heads": 2,
    "dropout": 0.2,
    "lr": 1e-3,
    "max_length": 50,
    "windows": "recent",
    "stride": 25,
}
PEERS = {
    "rpg": {
        "library": "cornac",
        "script": "cornac_models.py",
        "settings": {
            "width": 448,
            "layers": 2,
            "heads": 4,
            "inner": 1024,
            "dropout": 0.3,
            "lr": 5e-4,
            "temperature": 0.07,
            "max_length": 50,
            "windows": "sliding",
            "stride": 25,
        },
    },
    "sasrec": {
        "library": "rectools",
        "script": "rectools_models.py",
        "settings": ITEMS | {"inner": 128, "activation": "relu"},
    },
    "hstu": {
        "library": "rectools",
        "script": "rectools_models.py",
        "settings": ITEMS | {"head_width": 64},
    },
    "bert4rec": {
        "library": "rectools",
        "script": "rectools_models.py",
        "settings": ITEMS
        | {"inner": 512, "norm": "pre", "curriculum": {"preset": "r", "ratio": 0.2, "granularity": "item"}},
    },
    "gru4rec": {
        "library": "cornac",
        "script": "cornac_models.py",
        "settings": ITEMS
        | {"hidden": 128, "layers": 1, "loss": "sampled", "negatives": 2112, "shared_negatives": True},
    },
    "caser": {
        "library": "recbole",
        "script": "recbole_models.py",
        "settings": ITEMS | {"window": 5, "horizontal": 16, "vertical": 4},
    },
    "hgn": {"library": "recbole", "script": "recbole_models.py", "settings": ITEMS | {"window": 5}},
    "fdsa": {"library": "recbole", "script": "recbole_models.py", "settings": ITEMS | {"inner": 128}},
    "s3rec-pretrain": {
        "library": "recbole",
        "script": "recbole_models.py",
        "settings": ITEMS
        | {"inner": 128, "windows": "each", "curriculum": {"preset": "r", "ratio": 0.2, "budget": "printed"}},
    },
    "tiger": {
        "library": "cornac",
        "script": "cornac_models.py",
        "settings": {
            "width": 128,
            "layers": 4,
            "heads": 6,
            "head_width": 64,
            "inner": 1024,
            "dropout": 0.1,
            "lr": 1e-3,
            "max_length": 20,
            "windows": "each",
            "stride": 1,
            "causal": False,
            "user_tokens": 0,
            "beams": 20,
        },
    },
}
"""By model. Their validation is of ten users where it takes a search."""


def interpreter(library: str, folder: Path | None, given: dict[str, str], install: bool) -> Path | None:
    """The library's python, made first if that was asked for; None where there is none."""
    if library in given:
        return Path(given[library])
    if folder is None:
        return None
    python = folder / library / "bin" / "python"
    if not python.exists() and install:
        subprocess.run([sys.executable, "-m", "venv", folder / library], check=True)
        for pins in ([TORCH], PINS[library]):  # torch first and alone: what is there is kept
            subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    return python if python.exists() else None


def subset(histories: Histories, codes_IK: np.ndarray, users: int, path: Path) -> int:
    """Some users' histories with items and codes numbered anew; returns the number of items."""
    chosen = np.sort(np.random.default_rng(0).permutation(histories.users)[:users])
    length = histories.length[chosen]
    offset = np.cumsum(length) - length
    flat = np.repeat(histories.offset[chosen] - offset, length) + np.arange(int(length.sum()))
    raw, item = np.unique(histories.item[flat], return_inverse=True)
    np.savez(path, item=(item + 1).astype("uint32"), offset=offset, length=length, codes=codes_IK[raw - 1])
    return len(raw)


def contend(python: Path, script: str, data: Path, settings: dict[str, Any], threads: int) -> dict[str, Any]:
    """One run in a process of its own."""
    import os

    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    if python != Path(sys.executable):
        environment.pop("PYTHONPATH", None)
    command = [str(python), str(CONTENDERS / script), str(data), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{script} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(name: str, rounds: list[dict[str, dict[str, Any]]]) -> list[Comparison]:
    """Training and evaluation of one model, theirs and ours."""
    peaks = {f"{side}_peak_mib": statistics.median(r[side]["peak_mib"] for r in rounds) for side in ("ours", "other")}
    label, library = f"{name.upper()}, {{}}", PEERS[name]["library"]
    return [
        Comparison.of(
            label.format(part), library, [r["ours"][part] for r in rounds], [r["other"][part] for r in rounds], **peaks
        )
        for part in ("train", "evaluate")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--digit-codes", type=Path, help="codes that end in a digit against collisions: TIGER's")
    parser.add_argument("--peers", type=Path, help="folder of their environments")
    parser.add_argument("--peer-python", action="append", default=[], metavar="LIBRARY=PATH")
    parser.add_argument("--install", action="store_true", help="make absent environments under --peers")
    parser.add_argument("--only", nargs="+", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    given = dict(pair.split("=", 1) for pair in options.peer_python)
    codes = {name: options.digit_codes if name == "tiger" else options.codes for name in options.only}
    comparisons: list[Comparison] = []
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, histories = Path(folder) / "input.npz", Histories.read(options.data)
        for name in options.only:
            python = interpreter(PEERS[name]["library"], options.peers, given, options.install)
            if python is None or codes[name] is None:
                why = "it needs --digit-codes" if python else "no environment of its own (--peers FOLDER --install)"
                print(f"{name}: skipped, {why}", file=sys.stderr)
                continue
            table = pq.read_table(codes[name] / "codes.parquet").column("codes")
            items = subset(histories, np.stack(table.to_numpy()).astype("int64"), options.users, data)
            peer = PEERS[name]
            settings = peer["settings"] | {
                "model": name,
                "epochs": options.epochs,
                "batch_size": options.batch_size,
                "warmup_steps": 20,
                "precision": "fp32",
                "valid_users": 10 if "beams" in peer["settings"] else None,
            }
            rounds = []
            for number in range(options.rounds):
                asked = settings | {"seed": number}
                rounds.append(
                    {
                        "ours": contend(Path(sys.executable), "ours.py", data, asked, options.threads),
                        "other": contend(python, peer["script"], data, asked, options.threads),
                    }
                )
                print(f"{name}, round {number}: {json.dumps(rounds[-1])}", file=sys.stderr, flush=True)
            runs[name] = rounds
            comparisons += compared(name, rounds)
    if options.json:
        print(json.dumps(report(comparisons, users=options.users, items=items, runs=runs)))
        return
    for line in comparisons:
        print(line.line(), f" peak {line.ours_peak_mib:.0f} and {line.other_peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
