"""The names of the data sets that can be downloaded, and the addresses of their files.

Amazon Reviews 2014 (McAuley et al., SIGIR 2015; He and McAuley, WWW 2016), the 24 categories of
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, and the mirrors that the authors name. They publish no
checksums; the first download records them.
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

_CATEGORIES = """
    Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl Cell_Phones_and_Accessories
    Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care
    Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden
    Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
AMAZON_2014 = tuple(_CATEGORIES.split())
"""The categories, spelled as in the names of their files."""

DATASETS: Mapping[str, Mapping[str, str]] = {
    "synthetic": {"name": "synthetic"},
    **{
        f"amazon-2014-{category.lower().replace('_', '-')}": {"name": "amazon-2014", "category": category}
        for category in AMAZON_2014
    },
}
"""Name of a data set -> its settings of ``[source]``."""


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
    """The settings of ``[source]`` of a data set. Raises a :class:`UsageError` with all names if it is unknown."""
    if dataset and dataset in DATASETS:
        return DATASETS[dataset]
    what = f"There is no data set '{dataset}' to download." if dataset else "Which data set to download?"
    hint = f"--dataset NAME, one of: {', '.join(DATASETS)}"
    raise UsageError(f"{what}{did_you_mean(dataset or '', DATASETS)}", hint=hint)


def check_name(dataset: str | None) -> str:
    """The name of a new data set. Raises a :class:`UsageError` if it is absent or cannot be the name of a folder."""
    if dataset is None:
        raise UsageError("Your own data needs a name.", hint="Add --dataset NAME")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", dataset):
        raise UsageError(f"'{dataset}' cannot be the name of a data set.", hint="64 letters, digits, - _ . at most")
    return dataset
