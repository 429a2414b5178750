"""genrec preprocess: raw files to tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

OWN = "Your own data"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "preprocess")
    def preprocess(
        common: Common,
        k_core: Annotated[
            int | None,
            typer.Option("--k-core", help="Least rows of a user and an item. Default: 5."),
        ] = None,
        split: Annotated[
            str | None, typer.Option("--split", help="leave-one-out or time. Default: leave-one-out.")
        ] = None,
        fields: Annotated[
            str | None,
            typer.Option(
                "--fields",
                help="Text fields in order, such as title,brand,categories. Default: those there are "
                "of title,price,brand,feature,categories,description.",
            ),
        ] = None,
        valid_from: Annotated[
            str | None,
            typer.Option("--valid-from", help="By time: a share or a date (2014-01-31). Default: 0.8."),
        ] = None,
        test_from: Annotated[
            str | None, typer.Option("--test-from", help="By time: a share or a date. Default: 0.9.")
        ] = None,
        drop_duplicates: Annotated[
            bool | None,
            typer.Option("--drop-duplicates", help="Keep one of rows with equal user, item, time."),
        ] = None,
        shuffle_ties: Annotated[
            int | None,
            typer.Option("--shuffle-ties", help="Seed: a user's interactions of equal time in random order."),
        ] = None,
        skip_bad_rows: Annotated[
            bool | None, typer.Option("--skip-bad-rows", help="Leave out lines that cannot be read.")
        ] = None,
        engine: Annotated[
            str, typer.Option("--engine", help="polars, or spark with genrec-cli[spark]; the tables are the same.")
        ] = "polars",
        raw: Annotated[str | None, typer.Option("--raw", help="Raw artifact. Default: the only one.")] = None,
        interactions: Annotated[
            Path | None,
            typer.Option(
                "--interactions",
                help="CSV, TSV, Parquet, JSON lines; --dataset names it.",
                rich_help_panel=OWN,
            ),
        ] = None,
        items: Annotated[
            Path | None,
            typer.Option("--items", help="Its columns are text fields.", rich_help_panel=OWN),
        ] = None,
        user_col: Annotated[
            str | None, typer.Option("--user-col", help="Default: user_id.", rich_help_panel=OWN)
        ] = None,
        item_col: Annotated[
            str | None, typer.Option("--item-col", help="Default: item_id.", rich_help_panel=OWN)
        ] = None,
        time_col: Annotated[
            str | None,
            typer.Option(
                "--time-col",
                help="Default: timestamp, or the order of the rows.",
                rich_help_panel=OWN,
            ),
        ] = None,
        item_id_col: Annotated[
            str | None,
            typer.Option("--item-id-col", help="In the items file. Default: item_id.", rich_help_panel=OWN),
        ] = None,
        time_unit: Annotated[
            str | None, typer.Option("--time-unit", help="s, ms, us or ns. Default: s.", rich_help_panel=OWN)
        ] = None,
    ) -> "Artifact | None":
        """Make the tables: k-core, split, item texts, statistics."""
        from genrec_cli.config import validate
        from genrec_cli.errors import UsageError
        from genrec_cli.sources.logs import Logs
        from genrec_cli.stages.preprocess import PreprocessConfig, from_files, from_raw
        from genrec_cli.stages.preprocess import preprocess as stage

        own = {
            "user_col": user_col,
            "item_col": item_col,
            "time_col": time_col,
            "item_id_col": item_id_col,
            "time_unit": time_unit,
        }
        named = {
            "k_core": k_core,
            "split": split,
            "fields": None if fields is None else _words(fields),
            "valid_from": _moment(valid_from),
            "test_from": _moment(test_from),
            "drop_duplicates": drop_duplicates,
            "shuffle_ties": shuffle_ties,
            "skip_bad_rows": skip_bad_rows,
        }
        if interactions is None:
            given = [name for name, value in {"items": items, **own}.items() if value is not None]
            if given:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} belongs to your own data.",
                    hint="Add --interactions FILE",
                )
            sections = common.layers("preprocess", {"preprocess": named}, ["preprocess"])
        else:
            sections = common.layers("preprocess", {"preprocess": named, "source": {"name": "logs", **own}})
        config = validate(PreprocessConfig, "preprocess", sections["preprocess"])
        ws = common.workspace()
        if interactions is None:
            dataset = ws.dataset(common.dataset)
            origin = from_raw(ws, dataset, raw)
        else:
            dataset = new_name(common.dataset, raw)
            origin = from_files(validate(Logs.Config, "source", sections["source"]), interactions, items)
        return make(common, *stage(ws, dataset, config, origin, engine=engine))


def _words(text: str) -> list[str]:
    from genrec_cli.errors import UsageError

    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"--fields '{text}' names an empty field.", hint="For example: --fields title,brand")
    return words


def _moment(text: str | None) -> float | str | None:
    """A share as a number; anything else stays a date for the stage to check."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def new_name(name: str | None, raw: str | None) -> str:
    import re

    from genrec_cli.errors import UsageError

    if raw is not None:
        raise UsageError("--raw and --interactions exclude each other.")
    if name is None:
        raise UsageError("Your own data needs a name.", hint="Add --dataset NAME")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
        hint = "At most 64 letters, digits, '-', '_' and '.'"
        raise UsageError(f"'{name}' cannot be the name of a folder.", hint=hint)
    return name
