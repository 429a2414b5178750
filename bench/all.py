"""Every benchmark with one command: one table (Markdown) and one figure of how often others take our time.

    python bench/all.py --data ARTIFACT --codes ARTIFACT --digit-codes ARTIFACT --vectors ARTIFACT \
      --reference CHECKOUT --peers FOLDER

Each benchmark is a process of its own and alternates its sides itself; one that lacks its file, or what it
compares with, is skipped with a line. ``--only rpg_step peers`` runs some. The results stay in ``--out``
(all.json, all.md, all.svg); ``--again`` draws and tables what is there. Words after ``--`` go to the one
benchmark chosen by ``--only``.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCHES: dict[str, list[str]] = {
    "rpg_step": ["--reference", "--data"],
    "mhl_step": ["--data"],
    "attend": ["--data"],
    "floor": ["--data"],
    "evaluation": ["--reference", "--data"],
    "opq": ["--vectors"],
    "peers": ["--data", "--codes", "--digit-codes", "--peers"],
    "precision": ["--data", "--codes"],
    "parse": [],
    "decode": [],
}
"""Benchmarks and the options they are given, in the order in which they run. ``grow.py`` takes hours: alone."""
GIVEN = ("data", "codes", "digit-codes", "vectors", "reference", "peers")
NEEDED = {"peers": ["--data", "--codes", "--peers"], "precision": ["--data", "--codes"]}


def run(name: str, given: dict[str, str], words: list[str]) -> dict[str, Any] | None:
    """One benchmark's JSON, or None with a line that says why not."""
    script = HERE / f"{name}.py"
    absent = [option for option in NEEDED.get(name, []) if option not in given]
    why = f"there is no bench/{name}.py" if not script.exists() else f"it needs {' '.join(absent)}" if absent else ""
    if why:
        print(f"{name}: skipped, {why}", file=sys.stderr)
        return None
    if "--reference" in BENCHES[name] and "--reference" not in given:
        print(f"{name}: the reference is left out, no --reference CHECKOUT that exists", file=sys.stderr)
    options = [word for option in BENCHES[name] if option in given for word in (option, given[option])]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script), *options, *words, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if done.returncode:
        print(f"{name}: ended with {done.returncode}, skipped", file=sys.stderr)
        return None
    return json.loads(done.stdout[done.stdout.index("{") :])


def comparisons(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the table; ``parse`` tells its own way, by file and side."""
    lines = [line for result in results.values() for line in result.get("comparisons", [])]
    for name, file in results.get("parse", {}).get("files", {}).items():
        ours = next((side for side in file["sides"].values() if side["times_ours"] == 1), None)
        for other, side in file["sides"].items():
            if ours is not None and side is not ours:
                lines.append(
                    {
                        "what": f"parsing {name}",
                        "other": other,
                        "ours_seconds": ours["seconds"],
                        "other_seconds": side["seconds"],
                        "ratio": side["times_ours"],
                        "ours_peak_mib": ours["peak_mib"],
                        "other_peak_mib": side["peak_mib"],
                    }
                )
    return lines


def seconds(value: float) -> str:
    return f"{value * 1e3:,.1f} ms" if value < 1 else f"{value:,.1f} s"


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = (
        "| what | ours | other | its time | other / ours | peak memory, ours and other |\n|---|---|---|---|---|---|\n"
    )
    rows = []
    for line in lines:
        peaks = [line.get(f"{side}_peak_mib") for side in ("ours", "other")]
        memory = "" if None in peaks else "{:,.0f} and {:,.0f} MiB".format(*peaks)
        rows.append(
            f"| {line['what']} | {seconds(line['ours_seconds'])} | {line['other']} | "
            f"{seconds(line['other_seconds'])} | {line['ratio']:.1f} | {memory} |\n"
        )
    return head + "".join(rows)


def figure(lines: list[dict[str, Any]], path: Path) -> None:
    """Bars of ratios on a logarithmic axis; the line at 1 is our own time. The same figures give the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    from genrec_cli.report.figures import BLUE, INK, ORANGE, STYLE, canvas

    with rc_context(STYLE):
        drawn = canvas(8, 0.8 + 0.32 * len(lines))
        FigureCanvasSVG(drawn)
        axes = drawn.add_subplot()
        ratios = [line["ratio"] for line in lines]
        axes.barh(
            range(len(lines)),
            [r - 1 for r in ratios],
            left=1,
            color=[BLUE if r >= 1 else ORANGE for r in ratios],
            height=0.62,
        )
        axes.set_yticks(range(len(lines)), [f"{line['what']}\n{line['other']}" for line in lines], fontsize=7)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.axvline(1, color=INK, linewidth=1)
        axes.grid(visible=False, axis="y")
        for place, ratio in enumerate(ratios):
            axes.annotate(f" {ratio:.1f}", (max(ratio, 1), place), va="center", fontsize=7)
        axes.margins(x=0.12)
        axes.set_xlabel("the other's time / ours (above 1: ours is faster)")
        drawn.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in GIVEN:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(BENCHES), default=list(BENCHES))
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder of all.json, .md and .svg")
    parser.add_argument("--again", action="store_true", help="run nothing: table and figure of what is in --out")
    parser.add_argument("words", nargs="*", help="after --: options of the one benchmark in --only")
    options = parser.parse_args()
    if options.words and len(options.only) != 1:
        parser.error("words after -- go to one benchmark: name it with --only")
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "all.json"
    results = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    given = {}
    for name in GIVEN:
        path = getattr(options, name.replace("-", "_"))
        if path is not None and path.exists():
            given[f"--{name}"] = str(path)
        elif path is not None:
            print(f"--{name} {path} does not exist", file=sys.stderr)
    for name in [] if options.again else options.only:
        if (found := run(name, given, options.words)) is not None:
            results[name] = found
            kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines = comparisons(results)
    text = table(lines)
    (options.out / "all.md").write_text(text, encoding="utf-8")
    if lines:
        figure(lines, options.out / "all.svg")
    print(text, end="")


if __name__ == "__main__":
    main()
