"""The warning about artifacts that were made from stale inputs."""

from genrec_cli.artifacts import Plan, Workspace

WARNING = "made from stale inputs (--allow-stale): do not report these numbers"


def mark(ws: Workspace, plan: Plan) -> str:
    """A Markdown paragraph if the plan's artifact will be tainted, otherwise an empty text."""
    tainted = any(artifact.tainted or ws.stale(artifact) for artifact in plan.inputs.values())
    return f"**{WARNING[0].upper()}{WARNING[1:]}.**\n\n" if tainted else ""
