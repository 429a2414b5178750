"""genrec preprocess: raw files to tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

PANEL = "Your own data"
EXAMPLES = {"--fields": "title,brand", "--events": "buy,cart"}


def _option(name: str, help: str, panel: str | None = None) -> Any:
    return typer.Option(name, help=help, rich_help_panel=panel)


WHERE = "Keep the interactions for which this is true: an SQL expression such as 'rating >= 4'."
FIELDS = "Text fields in order. Default: those of title,price,brand,feature,categories,description that exist."
Text: TypeAlias = str | None
Flag: TypeAlias = bool | None
File: TypeAlias = Path | None


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "preprocess")
    def preprocess(
        common: Common,
        k_core: Annotated[
            int | None, _option("--k-core", "Minimum of interactions per user and per item. Default: 5.")
        ] = None,
        where: Annotated[Text, _option("--where", WHERE)] = None,
        events: Annotated[Text, _option("--events", "Keep only these events, such as buy,cart.")] = None,
        event_col: Annotated[Text, _option("--event-col", "Column with the event. Default: event.")] = None,
        keep_cold_items: Annotated[
            Flag, _option("--keep-cold-items", "Keep items of the items file without interactions.")
        ] = None,
        split: Annotated[Text, _option("--split", "leave-one-out, time or none. Default: leave-one-out.")] = None,
        fields: Annotated[Text, _option("--fields", FIELDS)] = None,
        valid_from: Annotated[
            Text, _option("--valid-from", "Start of validation: fraction or date. Default: 0.8.")
        ] = None,
        test_from: Annotated[Text, _option("--test-from", "Start of the test: fraction or date. Default: 0.9.")] = None,
        drop_duplicates: Annotated[Flag, _option("--drop-duplicates", "Keep one row per user, item and time.")] = None,
        shuffle_ties: Annotated[
            int | None, _option("--shuffle-ties", "Seed: rows of a user with equal times in random order.")
        ] = None,
        skip_bad_rows: Annotated[Flag, _option("--skip-bad-rows", "Skip lines that cannot be read.")] = None,
        max_bad_rows: Annotated[
            float | None, _option("--max-bad-rows", "Largest fraction of lines to skip. Default: 0.01.")
        ] = None,
        engine: Annotated[
            str, _option("--engine", "polars or spark (genrec-cli[spark]). The tables are equal.")
        ] = "polars",
        raw: Annotated[Text, _option("--raw", "Artifact of raw files. Default: the only one.")] = None,
        source: Annotated[
            Text, _option("--source", "Layout of --from-dir, such as movielens or recbole.", PANEL)
        ] = None,
        from_dir: Annotated[File, _option("--from-dir", "Folder with the raw files of --source.", PANEL)] = None,
        interactions: Annotated[
            File, _option("--interactions", "Your log: CSV, TSV, Parquet or JSON lines.", PANEL)
        ] = None,
        items: Annotated[File, _option("--items", "Your items. The other columns are texts.", PANEL)] = None,
        user_col: Annotated[Text, _option("--user-col", "Column of the user. Default: user_id.", PANEL)] = None,
        item_col: Annotated[
            Text, _option("--item-col", "Column of the item in the log. Default: item_id.", PANEL)
        ] = None,
        time_col: Annotated[
            Text, _option("--time-col", "Column of the time. Default: timestamp, else the order of the rows.", PANEL)
        ] = None,
        item_id_col: Annotated[
            Text, _option("--item-id-col", "Column of the item in the items file. Default: item_id.", PANEL)
        ] = None,
        time_unit: Annotated[
            Text, _option("--time-unit", "Unit of times that are numbers: s, ms, us or ns. Default: s.", PANEL)
        ] = None,
        title_col: Annotated[
            Text, _option("--title-col", "Column of the title in the items file. Default: title.", PANEL)
        ] = None,
        list_separator: Annotated[
            Text, _option("--list-separator", "Between several values in a cell of the items file, such as |.", PANEL)
        ] = None,
    ) -> "Artifact | None":
        """Make the tables: k-core, split, item texts, statistics."""
        from genrec_cli.config import validate
        from genrec_cli.errors import UsageError
        from genrec_cli.sources.datasets import check_name
        from genrec_cli.sources.logs import Logs
        from genrec_cli.stages.preprocess import PreprocessConfig, from_files, from_folder, from_raw
        from genrec_cli.stages.preprocess import preprocess as stage

        own = {"user_col": user_col, "item_col": item_col, "time_col": time_col}
        own |= {"item_id_col": item_id_col, "time_unit": time_unit, "title_col": title_col}
        own |= {"list_separator": list_separator}
        named: dict[str, Any] = {"k_core": k_core, "split": split, "fields": _words(fields, "--fields")}
        named |= {"where": where, "events": _words(events, "--events"), "event_col": event_col}
        named |= {"keep_cold_items": keep_cold_items, "max_bad_rows": max_bad_rows}
        named |= {"valid_from": _moment(valid_from), "test_from": _moment(test_from)}
        named |= {"drop_duplicates": drop_duplicates, "shuffle_ties": shuffle_ties, "skip_bad_rows": skip_bad_rows}
        given = [name for name, value in {"items": items, **own}.items() if value is not None]
        if (source is None) != (from_dir is None):
            raise UsageError("--source and --from-dir belong together.", hint="--source movielens --from-dir FOLDER")
        if interactions is None and given and (from_dir is None or items is not None):
            option = given[0].replace("_", "-")
            raise UsageError(f"--{option} belongs to your own data.", hint="Add --interactions FILE")
        if sum(choice is not None for choice in (raw, from_dir, interactions)) > 1:
            raise UsageError("--raw, --from-dir and --interactions exclude each other.", hint="Choose one")
        outside = interactions is not None or from_dir is not None
        layer = {"preprocess": named} | ({"source": {"name": source or "logs", **own}} if outside else {})
        sections = common.layers("preprocess", layer, list(layer))
        config = validate(PreprocessConfig, "preprocess", sections["preprocess"])
        ws = common.workspace()
        if not outside:
            dataset = ws.dataset(common.dataset)
            origin = from_raw(ws, dataset, raw)
        else:
            dataset = check_name(common.dataset)
            if from_dir is not None:
                origin = from_folder(sections["source"], from_dir)
            else:
                assert interactions is not None
                origin = from_files(validate(Logs.Config, "source", sections["source"]), interactions, items)
        return make(common, *stage(ws, dataset, config, origin, engine=engine))


def _words(text: str | None, option: str) -> list[str] | None:
    from genrec_cli.errors import UsageError

    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option} '{text}' has an empty name.", hint=f"For example: {option} {EXAMPLES[option]}")
    return words


def _moment(text: str | None) -> float | str | None:
    """A fraction as a float; any other text is a date that the stage checks."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
