"""import: data tables from other programs -> a data artifact like those of ``preprocess``."""

from collections.abc import Callable
from pathlib import Path

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.data import schema
from genrec_cli.data.histories import write_interactions
from genrec_cli.data.validate_tables import check_tables, check_train_counts, parts, read_batches
from genrec_cli.errors import UsageError
from genrec_cli.files import refuse_changed, sha256_file, sha256_text, stamps

VERSION = 3
LABEL = "imported"
NEEDED, OPTIONAL = ("interactions", "users", "items"), ("attributes",)


def find_tables(folder: Path | None, named: dict[str, Path | None]) -> dict[str, Path]:
    """The paths of the tables: those of ``named``, the others as ``NAME.parquet`` or ``NAME/`` of the folder."""
    found = {name: path for name, path in named.items() if path is not None}
    for name in (*NEEDED, *OPTIONAL):
        candidates = [folder / f"{name}.parquet", folder / name] if folder and name not in found else []
        found |= dict([(name, path) for path in candidates if path.exists()][:1])
        if name not in found and name in NEEDED:
            where = f" in {folder}" if folder else ""
            raise UsageError(f"There is no table of {name}{where}.", hint=f"--{name} FILE.parquet, or a folder with it")
    return found


def import_tables(ws: Workspace, dataset: str, paths: dict[str, Path]) -> tuple[Plan, Callable[[], Artifact]]:
    """The plan of the data artifact, and the work that makes it.

    The work raises :class:`genrec_cli.errors.DataError`; see :func:`genrec_cli.data.validate_tables.check_tables`.
    """
    before = stamps(part for path in paths.values() for part in parts(path))
    external = {name: _hash(path) for name, path in paths.items()}
    plan = Plan(dataset, "data", LABEL, VERSION, {"import": {"tables": sorted(paths)}}, external=external)

    def work() -> Artifact:
        tables = check_tables(paths)
        with ws.build(plan) as draft:
            blocks, items = read_batches(tables.interactions), len(tables.items)
            train_count_I = write_interactions(draft.path, blocks, tables.user_U, items, times=tables.times)
            refuse_changed(before)  # the key holds the hashes of the unchanged files
            described = check_train_counts(tables.items, train_count_I, paths["items"])
            written = {"users": tables.users, "items": described, "attributes": tables.attributes}
            for name, table in written.items():
                schema.write_table(table, draft.path / f"{name}.parquet", schema.SCHEMAS[name])
            result = schema.statistics(tables.users, described, len(tables.attributes))
            draft.result |= result | {"times": tables.times}
            rows = [(name.replace("_", " "), console.cell(value)) for name, value in draft.result.items()]
            console.table("", ("data", "value"), rows)
        return ws.made(plan)

    return plan, work


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's files."""
    if path.is_file():
        return sha256_file(path)
    return sha256_text("".join(f"{part.name} {sha256_file(part)}\n" for part in parts(path)))
