"""genrec preprocess: raw files to tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

PANEL = "Your own data"


def _option(name: str, help: str, panel: str | None = None) -> Any:
    return typer.Option(name, help=help, rich_help_panel=panel)


FIELDS = "Text fields in order. Default: the existing ones of title,price,brand,feature,categories,description."
Text: TypeAlias = str | None
Flag: TypeAlias = bool | None
File: TypeAlias = Path | None


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "preprocess")
    def preprocess(
        common: Common,
        k_core: Annotated[int | None, _option("--k-core", "Minimum rows per user and item. Default: 5.")] = None,
        split: Annotated[Text, _option("--split", "leave-one-out or time. Default: leave-one-out.")] = None,
        fields: Annotated[Text, _option("--fields", FIELDS)] = None,
        valid_from: Annotated[Text, _option("--valid-from", "Fraction or date (2014-01-31). Default: 0.8.")] = None,
        test_from: Annotated[Text, _option("--test-from", "Fraction or date. Default: 0.9.")] = None,
        drop_duplicates: Annotated[Flag, _option("--drop-duplicates", "One row per user, item and time.")] = None,
        shuffle_ties: Annotated[int | None, _option("--shuffle-ties", "Seed of a random order of equal times.")] = None,
        skip_bad_rows: Annotated[Flag, _option("--skip-bad-rows", "Skip lines that cannot be read.")] = None,
        engine: Annotated[str, _option("--engine", "polars or spark (genrec-cli[spark]); same tables.")] = "polars",
        raw: Annotated[Text, _option("--raw", "Raw artifact. Default: the only one.")] = None,
        interactions: Annotated[File, _option("--interactions", "CSV, TSV, Parquet, JSON lines.", PANEL)] = None,
        items: Annotated[File, _option("--items", "Its columns are text fields.", PANEL)] = None,
        user_col: Annotated[Text, _option("--user-col", "Default: user_id.", PANEL)] = None,
        item_col: Annotated[Text, _option("--item-col", "Default: item_id.", PANEL)] = None,
        time_col: Annotated[Text, _option("--time-col", "Default: timestamp, or the order of the rows.", PANEL)] = None,
        item_id_col: Annotated[Text, _option("--item-id-col", "In the items file. Default: item_id.", PANEL)] = None,
        time_unit: Annotated[Text, _option("--time-unit", "s, ms, us or ns. Default: s.", PANEL)] = None,
    ) -> "Artifact | None":
        """Make the tables: k-core, split, item texts, statistics."""
        from genrec_cli.config import validate
        from genrec_cli.errors import UsageError
        from genrec_cli.sources.catalog import check_name
        from genrec_cli.sources.logs import Logs
        from genrec_cli.stages.preprocess import PreprocessConfig, from_files, from_raw
        from genrec_cli.stages.preprocess import preprocess as stage

        own = {"user_col": user_col, "item_col": item_col, "time_col": time_col}
        own |= {"item_id_col": item_id_col, "time_unit": time_unit}
        named: dict[str, Any] = {"k_core": k_core, "split": split, "fields": _words(fields)}
        named |= {"valid_from": _moment(valid_from), "test_from": _moment(test_from)}
        named |= {"drop_duplicates": drop_duplicates, "shuffle_ties": shuffle_ties, "skip_bad_rows": skip_bad_rows}
        given = [name for name, value in {"items": items, **own}.items() if value is not None]
        if interactions is None and given:
            option = given[0].replace("_", "-")
            raise UsageError(f"--{option} belongs to your own data.", hint="Add --interactions FILE")
        if interactions is not None and raw is not None:
            raise UsageError("--raw and --interactions exclude each other.")
        layer = {"preprocess": named} | ({"source": {"name": "logs", **own}} if interactions else {})
        sections = common.layers("preprocess", layer, list(layer))
        config = validate(PreprocessConfig, "preprocess", sections["preprocess"])
        ws = common.workspace()
        if interactions is None:
            dataset = ws.dataset(common.dataset)
            origin = from_raw(ws, dataset, raw)
        else:
            dataset = check_name(common.dataset)
            origin = from_files(validate(Logs.Config, "source", sections["source"]), interactions, items)
        return make(common, *stage(ws, dataset, config, origin, engine=engine))


def _words(text: str | None) -> list[str] | None:
    from genrec_cli.errors import UsageError

    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"--fields '{text}' names an empty field.", hint="For example: --fields title,brand")
    return words


def _moment(text: str | None) -> float | str | None:
    """A fraction as a float; any other text is a date that the stage checks."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
