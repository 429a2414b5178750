"""Load on a running service with the public tool ``wrk``: histories a second, times, and memory.

    genrec serve mhl --port 8000 &
    python bench/serve.py http://127.0.0.1:8000 --pid $! --clients 50 --requests 100000 --every 20000

Each request asks for one list of 10 items after a history of 10 popular items, on a connection that stays open. All
requests are equal: the time depends on length and batch, not on which items they are. ``wrk`` loads for a time, not for
a count, so the seconds of a round follow from the rate of the round before. It counts an answer that took more than the
mean time more than once, as if requests had been sent at a constant rate; so its 99th percentile is no lower than that
of a plain count. It works on the same cores; ``tool_cores`` is what it takes of them. Needs ``wrk`` (Debian).
"""

import argparse
import json
import math
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

SCRIPT = 'wrk.method, wrk.body = "POST", [==[{body}]==]; wrk.headers["Content-Type"] = "application/json"'
MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
"""Milliseconds of the units that ``wrk`` prints."""


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def used() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def load(url: str, script: Path, clients: int, seconds: float) -> dict[str, float]:
    """One round: what ``wrk`` prints, and the cores that it takes itself."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{math.ceil(seconds)}s", "--timeout", "30s", "--latency"]
    command += ["-s", str(script), f"{url}/recommend"]
    began, before = time.perf_counter(), used()
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return read(text) | {"tool_cores": (used() - before) / (time.perf_counter() - began)}


def read(text: str) -> dict[str, float]:
    """Answers, answers a second, the median and the 99th percentile in milliseconds, and failed requests."""
    found = {mark: (float(value), unit) for mark, value, unit in re.findall(r"(\d+%)\s+([\d.]+)(us|ms|s|m)\b", text)}
    refused, errors = re.search(r"Non-2xx.*?: (\d+)", text), re.search(r"Socket errors: (.*)", text)
    return {
        "answers": int(re.search(r"(\d+) requests in", text)[1]),
        "histories_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50_ms": found["50%"][0] * MS[found["50%"][1]],
        "p99_ms": found["99%"][0] * MS[found["99%"][1]],
        "failed": int(refused[1] if refused else 0) + sum(map(int, re.findall(r"\d+", errors[1] if errors else ""))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, help="Process of the service, for its memory.")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20_000, help="How many in all, at least.")
    parser.add_argument("--every", type=int, default=5_000, help="About how many in a round; then memory is read.")
    options = parser.parse_args()
    with urllib.request.urlopen(f"{options.url}/items?limit=10") as answer:
        history = [item["item"] for item in json.load(answer)]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "request.lua")
        script.write_text(SCRIPT.format(body=json.dumps({"histories": [history], "k": 10})))
        rate, sent = load(options.url, script, options.clients, 2)["histories_per_second"], 0  # warm-up
        if options.pid:
            print(json.dumps({"requests": 0, "memory_mb": round(memory(options.pid), 1)}), flush=True)
        while sent < options.requests:
            row = load(options.url, script, options.clients, min(options.every, options.requests - sent) / rate)
            rate, sent = row["histories_per_second"], sent + int(row.pop("answers"))
            row = {"requests": sent} | row | ({"memory_mb": memory(options.pid)} if options.pid else {})
            print(json.dumps({name: round(value, 2) for name, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
