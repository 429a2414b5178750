"""The file of a blend, ``blend.json``, and its parts as models: all that a blended run is loaded from."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_cli.errors import DataError
from genrec_cli.models.blend import Blend, Mixing, Part
from genrec_cli.searches.exhaustive import Exhaustive

if TYPE_CHECKING:
    from genrec_cli.stages.trained import Run

FILE = "blend.json"


def part_of(run: "Run", **options: Any) -> Part:
    """A run as a part of a blend; ``options`` are its temperature and floor."""
    scored = partial(Exhaustive(run.catalog).scored, run.model)
    return Part(scored, run.max_length, counts=not run.kind.trainable, **options)


def write(folder: Path, runs: Sequence["Run"], parts: Sequence[Part], mixing: Mixing) -> dict[str, Any]:
    """Write temperatures, floors, buckets and weights; returns the content."""
    rows = [
        {"run": run.name, "temperature": part.temperature, "floor": part.floor}
        for run, part in zip(runs, parts, strict=True)
    ]
    content = {"form": mixing.form, "by": mixing.by, "edges": mixing.edges, "weights": mixing.weight_GP, "parts": rows}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content


def load(folder: Path, model: Blend, runs: Sequence["Run"]) -> None:
    """Give a blend its parts and weights. The error names the file."""
    try:
        content = json.loads((folder / FILE).read_text("utf-8"))
        rows, weights = content["parts"], tuple(tuple(float(x) for x in row) for row in content["weights"])
        edges = tuple(int(edge) for edge in content["edges"])
        fits = len(rows) == len(runs) and all(len(row) == len(runs) for row in weights)
        if not fits or len(weights) != len(edges) + 1 or content["form"] not in ("sum", "product"):
            raise ValueError("its parts, weights and edges do not fit")
        model.mixing = Mixing(content["form"], weights, content["by"], edges)
        options = [{name: float(row[name]) for name in ("temperature", "floor")} for row in rows]
    except (OSError, KeyError, TypeError, ValueError) as error:
        hint = "Make it again: genrec blend RUN RUN --force"
        raise DataError(f"{folder / FILE} cannot be read: {error}.", hint=hint) from None
    model.parts = [part_of(run, **more) for run, more in zip(runs, options, strict=True)]
