"""Load on a running service with the public tool ``hey``: histories a second, times, and memory.

    genrec serve mhl --port 8000 &
    python bench/serve.py http://127.0.0.1:8000 --pid $! --clients 50 --requests 20000

Each request asks for one list of 10 items after a history of 10 popular items; all requests of a round are equal, since
``hey`` sends one body. The result depends on length and batch, not on which items they are. Needs ``hey`` (Debian).
"""

import argparse
import json
import re
import subprocess
import urllib.request
from pathlib import Path


def memory(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def load(url: str, body: str, clients: int, requests: int) -> dict[str, float]:
    """One round: answers a second, the median and the 99th percentile in milliseconds, and answers other than 200."""
    command = ["hey", "-n", str(requests), "-c", str(clients), "-m", "POST", "-T", "application/json", "-d", body]
    text = subprocess.run([*command, f"{url}/recommend"], capture_output=True, text=True, check=True).stdout
    found = {name: float(re.search(rf"{name}+\s+in ([\d.]+)", text)[1]) * 1000 for name in ("50%", "99%")}
    statuses = {int(code): int(count) for code, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    failed = requests - statuses.get(200, 0)
    return {
        "histories_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50_ms": found["50%"],
        "p99_ms": found["99%"],
        "failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, help="Process of the service, for its memory.")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=4, help="Memory is read after each.")
    options = parser.parse_args()
    with urllib.request.urlopen(f"{options.url}/items?limit=10") as answer:
        history = [item["item"] for item in json.load(answer)]
    body = json.dumps({"histories": [history], "k": 10})
    load(options.url, body, options.clients, 10 * options.clients)  # warm-up
    for _ in range(options.rounds):
        row = load(options.url, body, options.clients, options.requests // options.rounds)
        if options.pid:
            row["memory_mb"] = memory(options.pid)
        print(json.dumps({name: round(value, 1) for name, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
