"""Which data sets can be named, and where their files are: a table of facts, no work.

Amazon Reviews 2014 (McAuley et al., SIGIR 2015; He and McAuley, WWW 2016), the 24 categories of
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html. The mirrors are the ones that the authors'
own pages name. They publish no checksums, so none stand here; the first download records its own.
"""

import re
from collections.abc import Mapping

from genrec_cli.config import did_you_mean
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.sources.base import RemoteFile

AMAZON_2014_MIRRORS = (
    "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/",
    "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles/",
)
"""Folders that hold every file, in order of preference."""

AMAZON_2014 = (
    "Amazon_Instant_Video",
    "Apps_for_Android",
    "Automotive",
    "Baby",
    "Beauty",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Kindle_Store",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Sports_and_Outdoors",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)
"""The categories, spelled as in the names of their files."""

DATASETS: Mapping[str, Mapping[str, str]] = {
    "synthetic": {"name": "synthetic"},
    **{
        f"amazon-2014-{category.lower().replace('_', '-')}": {"name": "amazon-2014", "category": category}
        for category in AMAZON_2014
    },
}
"""Name of a data set -> the settings of ``[source]`` that it stands for."""


def files(category: str) -> list[RemoteFile]:
    """The two files of an Amazon 2014 category: 5-core reviews and the metadata of all its items."""
    if category not in AMAZON_2014:
        raise ConfigError(
            f"source.category: Amazon 2014 has no '{category}'.{did_you_mean(category, AMAZON_2014)}",
            hint=f"Categories: {', '.join(AMAZON_2014)}",
        )
    return [
        RemoteFile(name, tuple(mirror + name for mirror in AMAZON_2014_MIRRORS))
        for name in (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    ]


def settings(dataset: str | None) -> Mapping[str, str]:
    """What a data set's name stands for; a usage error that lists the names if it is none of them."""
    if dataset and dataset in DATASETS:
        return DATASETS[dataset]
    what = f"There is no data set '{dataset}' to download." if dataset else "Which data set to download?"
    raise UsageError(
        f"{what}{did_you_mean(dataset or '', DATASETS)}",
        hint=f"--dataset NAME, one of: {', '.join(DATASETS)}",
    )


def check_name(dataset: str) -> None:
    """Raise a :class:`UsageError` unless a text can be the name of a data set, which is a folder under the root."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", dataset):
        hint = "At most 64 letters, digits, '-', '_' and '.'"
        raise UsageError(f"'{dataset}' cannot be the name of a data set.", hint=hint)
