"""Raw ids of users, raw ids and titles of items."""

from dataclasses import dataclass
from pathlib import Path

from genrec_cli.data.schema import ITEMS, USERS, read_table


@dataclass(frozen=True)
class Names:
    """Row u of ``user`` is user u + 1; row i of ``item`` and ``title`` is item i + 1."""

    user: list[str]
    item: list[str]
    title: list[str | None]

    @classmethod
    def read(cls, folder: Path) -> "Names":
        """From a data artifact."""
        items = read_table(folder / "items.parquet", ITEMS, ["raw_id", "title"])
        users = read_table(folder / "users.parquet", USERS, ["raw_id"])
        return cls(users.column(0).to_pylist(), items.column(0).to_pylist(), items.column(1).to_pylist())

    def shown(self, item: int) -> str:
        """The title of an item, or its raw id if it has no title."""
        return self.title[item - 1] or self.item[item - 1]
