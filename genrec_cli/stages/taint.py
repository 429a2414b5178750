"""What is said, on the screen and in Markdown, of what was made from stale inputs."""

from genrec_cli.artifacts import Plan, Workspace

WARNING = "made from stale inputs (--allow-stale): do not report these numbers"


def mark(ws: Workspace, plan: Plan) -> str:
    """A paragraph for the head of a page if the plan's artifact will be tainted, otherwise nothing."""
    tainted = any(artifact.tainted or ws.stale(artifact) for artifact in plan.inputs.values())
    return f"**{WARNING[0].upper()}{WARNING[1:]}.**\n\n" if tainted else ""
