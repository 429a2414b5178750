"""The runs of the service, and the exchange of a run for a newer one of the same label.

A request keeps the run that it began with. An exchange replaces one reference after the new run is loaded, so no
request waits or fails.
"""

import asyncio
from collections.abc import Sequence

import torch

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import did_you_mean
from genrec_cli.errors import InputError, UsageError
from genrec_cli.serve.metrics import Metrics
from genrec_cli.serve.served import ServedRun
from genrec_cli.stages.exported import ExportedRun, export_folder
from genrec_cli.stages.trained import Run, refuse_other_data, refuse_repeated

CPU = torch.device("cpu")


class ServedRuns:
    """Loaded runs by place; the first one answers requests that name none."""

    def __init__(self, ws: Workspace, runs: Sequence[Run]) -> None:
        self.ws, self.runs = ws, [ServedRun(run) for run in runs]
        self._refused: set[str] = set()

    def of(self, name: str | None) -> ServedRun:
        """The first run of a name or label, or of the beginning of a name. Raises InputError."""
        if name is None:
            return self.runs[0]
        found = [served for served in self.runs if name in (served.run.name, served.run.label)]
        found = found or [served for served in self.runs if served.run.name.startswith(name)]
        if found:
            return found[0]
        known = [served.run.name for served in self.runs]
        message = f"The run '{name}' is not served.{did_you_mean(name, known)}"
        raise InputError(message, hint=f"Runs: {', '.join(known)}")

    def newer(self) -> list[tuple[int, Artifact]]:
        """Places whose run has a newer one: same data set and label, begun later, not stale."""
        found = []
        for place, served in enumerate(self.runs):
            if isinstance(served.run, ExportedRun):
                continue
            now, latest = served.run.artifact, newest(self.ws, served.run.artifact)
            later = latest.manifest["started"] > now.manifest["started"]
            if later and latest.digest != now.digest and latest.digest not in self._refused:
                found.append((place, latest))
        return found

    def _loaded(self, artifact: Artifact, device: torch.device) -> ServedRun:
        return ServedRun(Run(self.ws, artifact, device))

    def swap(self, metrics: Metrics) -> None:
        """Load newer runs and let them take the places of the older ones."""
        for place, artifact in self.newer():
            try:
                loaded = self._loaded(artifact, self.runs[place].run.device)
            except Exception as error:  # the run in service is kept, whatever is wrong with the new one
                self._refused.add(artifact.digest)
                metrics.failed.add()
                console.warn(f"{artifact.path.name} cannot be loaded: {error}; the older run stays in service")
                continue
            old, self.runs[place] = self.runs[place], loaded
            metrics.swaps.add()
            console.say(f"{old.run.name} is replaced by {artifact.path.name}")

    async def watch(self, metrics: Metrics, every: float) -> None:
        """Look for newer runs every few seconds, in a thread."""
        while True:
            await asyncio.sleep(every)
            try:
                await asyncio.to_thread(self.swap, metrics)
            except Exception as error:  # such as a folder that is written at this moment
                console.warn(f"newer runs cannot be looked for: {error}")


def chosen(
    ws: Workspace,
    dataset: str | None,
    selectors: Sequence[str | None],
    *,
    watch: bool = False,
    device: torch.device = CPU,
) -> list[Run]:
    """The runs and exports that are named. With ``watch``, a label means its newest run."""
    runs: list[Run] = []
    for selector in selectors:
        if folder := export_folder(ws, selector):
            runs.append(ExportedRun(folder, device))
            continue
        name = ws.dataset(dataset)
        same = [run for run in ws.all(name, "runs") if run.label == selector] if watch else []
        found = newest(ws, same[0]) if same else ws.find(name, "runs", selector, choice="genrec serve NAME [NAME ...]")
        runs.append(Run(ws, found, device))
    artifacts = [run.artifact for run in runs if not isinstance(run, ExportedRun)]
    refuse_repeated(artifacts)
    refuse_other_data(artifacts)
    _refuse_mixed(runs, selectors)
    return runs


def _refuse_mixed(runs: Sequence[Run], selectors: Sequence[str | None]) -> None:
    """Raise UsageError if two have one name, or one has other items than the first: the page shows their lists side by
    side. This is for exports, which have no artifacts to compare."""
    first = runs[0]
    for place, run in enumerate(runs):
        if run.name in [other.name for other in runs[:place]]:
            raise UsageError(f"The run {run.name} is named twice.", hint=f"Leave {selectors[place]} out")
        if run.names.item != first.names.item:
            counts = f"{len(run.names.item):,} and {len(first.names.item):,}"
            message = f"{run.name} has other items than {first.name} ({counts}), so their lists cannot be compared."
            raise UsageError(message, hint=f"genrec serve {selectors[place]} --port 8001    serves it alone")


def newest(ws: Workspace, artifact: Artifact) -> Artifact:
    """The run of the same data set and label that was begun last; the run itself if there is none."""
    same = [other for other in ws.all(artifact.dataset, "runs") if other.label == artifact.label]
    same = [other for other in same if not other.tainted and not ws.stale(other)]
    return max(same, key=lambda other: other.manifest["started"], default=artifact)
