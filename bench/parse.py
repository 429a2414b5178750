"""Reading raw files in Amazon's 2014 layout against the loops over their lines that are usual, in alternating runs.

    python bench/parse.py [--reviews 1985020] [--items 121010] [--text 500] [--rounds 3] [--seed 0] [--json]

Writes both files (gzip) to a temporary folder: by default ten times Beauty, with texts and lists of related
items as long as in the originals. The loops read the gzip file line by line: ``eval`` is what the reference
implementation of RPG does (here on lines that were just generated; nobody should do it with a downloaded
file), ``json.loads`` and ``ast.literal_eval`` are the careful ones. ``inflate`` only decompresses: no reader
that uses Python's zlib can be faster. Each run has a process of its own, for its peak memory. ``cpu``: seconds
of all its threads, which tell more than the clock where other work runs beside it.
"""

import argparse
import ast
import gzip
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

REVIEWS, METADATA = "reviews_Bench_5.json.gz", "meta_Bench.json.gz"
AT_A_TIME = 50_000


# ---- the files ---------------------------------------------------------------------------------


def prose(rng: np.random.Generator, words: int = 400_000) -> str:
    """Words of a made-up language, as unequally frequent as those of a real one."""
    vocabulary = ["".join(map(chr, rng.integers(97, 123, size))) for size in rng.integers(2, 11, 20_000)]
    frequency = 1 / np.arange(3, 20_003)
    return " ".join(vocabulary[i] for i in rng.choice(20_000, words, p=frequency / frequency.sum()))


def review_lines(count: int, items: int, mean: int, rng: np.random.Generator) -> Iterator[str]:
    """JSON lines with every field of the original; without reviewer's name and texts if ``mean`` is 0."""
    text = prose(rng)
    for first in range(0, count, AT_A_TIME):
        size = min(AT_A_TIME, count - first)
        long = np.minimum(rng.gamma(1.3, mean / 1.3, size), 5_000).astype(int) if mean else np.zeros(size, int)
        columns = (
            rng.integers(0, max(count // 9, 1), size),
            rng.integers(0, items, size),
            rng.integers(1, 6, size),
            rng.integers(12_000, 16_000, size),
            rng.integers(0, len(text) - 6_000, size),
            long,
        )
        for user, item, stars, day, at, length in zip(*(column.tolist() for column in columns), strict=True):
            head = f'{{"reviewerID": "A{user:013d}", "asin": "B{item:09d}", '
            tail = f'"overall": {stars}.0, "unixReviewTime": {day * 86_400}'
            if mean:
                some, rest = text[at : at + length // 2], text[at + length // 2 : at + length]
                head += f'"reviewerName": "{text[at : at + 12]}", "helpful": [{stars}, {stars + 2}], '
                head += f'"reviewText": "{some}. It\'s \\"{text[at : at + 6]}\\" {rest}", '
                tail += f', "summary": "{text[at + 50 : at + 75]}", "reviewTime": "0{stars} 1{stars}, 2013"'
            yield f"{head}{tail}}}\n"


def metadata_lines(count: int, mean: int, rng: np.random.Generator) -> Iterator[str]:
    """Python literals: three in ten titles and descriptions need escapes or the other quotes."""
    text = prose(rng)

    def related(most: int) -> list[str]:
        return [f"B{item:09d}" for item in rng.integers(0, count, int(rng.integers(1, most))).tolist()]

    for item in range(count):
        at = int(rng.integers(0, len(text) - 6_000))
        record: dict = {"asin": f"B{item:09d}"}
        if mean and rng.random() < 0.7:
            odd = (" 5\" it's", " the brand's", "", "", "")[item % 5]
            record["description"] = text[at : at + int(rng.integers(50, 2 * mean))] + odd
        record["title"] = text[at : at + 60] + (" Dr. S's" if item % 10 == 0 else "")
        record["price"] = round(float(rng.random()) * 100, 2)
        if mean:
            record["imUrl"] = f"http://images/I/51{item:07d}L.jpg"
            record["related"] = {"also_bought": related(60), "also_viewed": related(30), "bought_together": related(3)}
            record["salesRank"] = {"Beauty": int(rng.integers(0, 10**6))}
        if rng.random() < 0.6:
            record["brand"] = text[at : at + 9]
        record["categories"] = [["Beauty", text[at : at + 9], text[at + 20 : at + 29]]]
        yield repr(record) + "\n"


def write(path: Path, lines: Iterator[str]) -> int:
    """Bytes of the content that was written."""
    size, held = 0, []
    with gzip.open(path, "wb", compresslevel=6) as stream:
        for line in lines:
            held.append(line)
            if len(held) == 2_000:
                size += stream.write("".join(held).encode())
                held = []
        size += stream.write("".join(held).encode())
    return size


# ---- the sides ---------------------------------------------------------------------------------


def ours_reviews(path: Path) -> int:
    from genrec_cli.sources.base import BadRows
    from genrec_cli.sources.interactions import Columns, read_interactions
    from genrec_cli.sources.json_lines import JsonLines

    bad = BadRows()
    found = read_interactions(path, JsonLines(), Columns("reviewerID", "asin", "unixReviewTime"), bad)
    rows = sum(block.height for block in found)
    bad.check()
    return rows


def ours_metadata(path: Path) -> int:
    from genrec_cli.sources.amazon import TEXT_FIELDS
    from genrec_cli.sources.base import BadRows
    from genrec_cli.sources.json_lines import JsonLines
    from genrec_cli.sources.lines import read_blocks
    from genrec_cli.sources.literal import parse_literal
    from genrec_cli.sources.records import item_table

    bad = BadRows()
    records = JsonLines(parse_literal).records(read_blocks(path, bad))
    found = item_table(records, "asin", path, bad, fields=TEXT_FIELDS)
    bad.check()
    return found.height


def evaluated(line: bytes):
    return eval(line.replace(b"true", b"True").replace(b"false", b"False"))


def literal(line: bytes):
    return ast.literal_eval(line.decode())


def reviews_by(parse: Callable, path: Path) -> int:
    rows = []
    with gzip.open(path) as stream:
        for line in stream:
            review = parse(line)
            rows.append((review["reviewerID"], review["asin"], int(review["unixReviewTime"])))
    return len(rows)


def metadata_by(parse: Callable, path: Path) -> int:
    with gzip.open(path) as stream:
        return len({record["asin"]: record for record in map(parse, stream)})


def inflate(path: Path) -> int:
    member = zlib.decompressobj(wbits=31)
    with path.open("rb") as stream:
        while raw := stream.read(2**20):
            member.decompress(raw)
    return 0


SIDES: dict[str, dict[str, tuple]] = {
    REVIEWS: {
        "ours": (ours_reviews,),
        "loop of eval": (reviews_by, evaluated),
        "loop of json.loads": (reviews_by, json.loads),
        "inflate": (inflate,),
    },
    METADATA: {
        "ours": (ours_metadata,),
        "loop of eval": (metadata_by, evaluated),
        "loop of ast.literal_eval": (metadata_by, literal),
        "inflate": (inflate,),
    },
}


def run(side: tuple, path: Path) -> tuple[int, float, float, int]:
    """Rows, seconds, seconds of CPU, peak bytes of one run, in a process that has the imports behind it."""
    import polars  # noqa: F401
    import pyarrow.compute  # noqa: F401  (polars imports it for the first array that it is given)

    import genrec_cli.sources.amazon
    import genrec_cli.sources.interactions
    import genrec_cli.sources.literal
    import genrec_cli.sources.records  # noqa: F401

    began, worked = time.perf_counter(), time.process_time()
    rows = side[0](*side[1:], path)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rows, seconds, cpu, peak * (1 if sys.platform == "darwin" else 1024)


def compared(path: Path, size: int, rounds: int, skip: list[str]) -> dict[str, dict]:
    """Each side's median, by name."""
    sides = {name: side for name, side in SIDES[path.name].items() if name not in skip}
    found: dict[str, list[tuple]] = {name: [] for name in sides}
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for name, side in sides.items():
            with ProcessPoolExecutor(1, context) as process:
                found[name].append(process.submit(run, side, path).result())
    assert len({runs[0][0] for name, runs in found.items() if name != "inflate"}) == 1, "not the same rows"
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    return {
        name: {
            "seconds": seconds,
            "times_ours": seconds / medians["ours"][1],
            "cpu_seconds": cpu,
            "cpu_times_ours": cpu / medians["ours"][2],
            "mb_per_second": size / 1e6 / seconds,
            "peak_mib": peak / 2**20,
        }
        for name, (_, seconds, cpu, peak) in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", type=int, default=1_985_020, help="lines (default: ten times Beauty)")
    parser.add_argument("--items", type=int, default=121_010, help="lines of metadata (default: ten times Beauty)")
    parser.add_argument("--text", type=int, default=500, help="mean characters of a text; 0: lines without texts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="sides to leave out, such as 'loop of eval'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    result: dict = {"python": platform.python_version(), "options": {**vars(options), "folder": None}, "files": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, lines in (
            (REVIEWS, review_lines(options.reviews, options.items, options.text, rng)),
            (METADATA, metadata_lines(options.items, options.text, rng)),
        ):
            path = Path(folder) / name
            size = write(path, lines)
            about = {"bytes": size, "gzip_bytes": path.stat().st_size}
            result["files"][name] = about | {"sides": compared(path, size, options.rounds, options.skip)}
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, file in result["files"].items():
        print(f"{name}: {file['bytes'] / 1e6:,.0f} MB, {file['gzip_bytes'] / 1e6:,.0f} MB as gzip")
        for side, row in file["sides"].items():
            print(
                f"  {side:26} {row['seconds']:8.2f} s  {row['times_ours']:6.2f} times ours  "
                f"cpu {row['cpu_seconds']:8.2f} s  {row['cpu_times_ours']:6.2f} times ours  "
                f"{row['mb_per_second']:7.0f} MB/s  {row['peak_mib']:6.0f} MiB peak"
            )


if __name__ == "__main__":
    main()
