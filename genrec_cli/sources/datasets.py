"""The names of the data sets that can be downloaded, and the addresses of their files.

* Amazon Reviews 2014 (McAuley et al., SIGIR 2015; He and McAuley, WWW 2016), the 24 categories of
  https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, and the mirrors that the authors name.
* Amazon Reviews 2018 (Ni et al., EMNLP 2019), 5-core, https://nijianmo.github.io/amazon/.
* Amazon Reviews 2023 (Hou et al., arXiv 2403.03952), all reviews, https://amazon-reviews-2023.github.io/.
* MovieLens (Harper and Konstan, TiiS 2015), https://grouplens.org/datasets/movielens/.

No publisher gives a SHA-256; the first download records them.
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
MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data/"
GROUPLENS = "https://files.grouplens.org/datasets/movielens/"

_CATEGORIES = """
    Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl Cell_Phones_and_Accessories
    Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care
    Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden
    Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
AMAZON_2014 = tuple(_CATEGORIES.split())
"""The categories, spelled as in the names of their files."""

_CATEGORIES_2018 = """
    AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl
    Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards
    Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific Kindle_Store Luxury_Beauty
    Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies
    Prime_Pantry Software Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
_CATEGORIES_2023 = """
    All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products Beauty_and_Personal_Care Books
    CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards
    Grocery_and_Gourmet_Food Handmade_Products Health_and_Household Health_and_Personal_Care Home_and_Kitchen
    Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products
    Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement
    Toys_and_Games Unknown Video_Games
"""
AMAZON: Mapping[str, tuple[str, ...]] = {
    "amazon-2014": AMAZON_2014,
    "amazon-2018": tuple(_CATEGORIES_2018.split()),
    "amazon-2023": tuple(_CATEGORIES_2023.split()),
}
"""Source -> its categories."""
MOVIELENS: Mapping[str, int] = {"100k": 5, "1m": 6, "10m": 63, "20m": 190, "25m": 250, "32m": 227}
"""Data set of MovieLens -> about the MiB to download."""

DATASETS: Mapping[str, Mapping[str, str]] = {
    "synthetic": {"name": "synthetic"},
    **{f"ml-{size}": {"name": "movielens", "size": size} for size in MOVIELENS},
    **{
        f"{name}-{category.lower().replace('_', '-')}": {"name": name, "category": category}
        for name, categories in AMAZON.items()
        for category in categories
    },
}
"""Name of a data set -> its settings of ``[source]``."""
TERMS: Mapping[str, str] = {
    "synthetic": "generated; no licence needed",
    "movielens": "research; no redistribution or commercial use without permission (its README)",
    "amazon-2014": "none stated; cite McAuley et al. 2015",
    "amazon-2018": "none stated; cite Ni et al. 2019",
    "amazon-2023": "none stated; cite Hou et al. 2024",
}
"""Source -> the terms of use, in short; the sites of the publishers decide."""


def listed() -> list[dict[str, str | int | None]]:
    """One row per data set that can be downloaded: name, source, size in MiB (None: not known), terms of use."""
    return [
        {
            "name": dataset,
            "source": values["name"],
            "MiB": MOVIELENS.get(values.get("size", "")),
            "terms": TERMS[values["name"]],
        }
        for dataset, values in DATASETS.items()
    ]


def files(source: str, category: str) -> list[RemoteFile]:
    """The two files of an Amazon category: reviews (2014 and 2018: 5-core) and the metadata of all its items."""
    if category not in AMAZON[source]:
        raise ConfigError(
            f"source.category: {source} has no '{category}'.{did_you_mean(category, AMAZON[source])}",
            hint=f"Categories: {', '.join(AMAZON[source])}",
        )
    if source == "amazon-2014":
        return [
            RemoteFile(name, tuple(mirror + name for mirror in AMAZON_2014_MIRRORS))
            for name in (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
        ]
    if source == "amazon-2018":
        paths = f"amazon_v2/categoryFilesSmall/{category}_5.json.gz", f"amazon_v2/metaFiles2/meta_{category}.json.gz"
    else:
        folder = "amazon_2023/raw"
        paths = f"{folder}/review_categories/{category}.jsonl.gz", f"{folder}/meta_categories/meta_{category}.jsonl.gz"
    return [RemoteFile(path.rpartition("/")[2], (MCAULEY + path,)) for path in paths]


def movielens_files(size: str) -> list[RemoteFile]:
    """The zip file of a MovieLens data set."""
    name = f"ml-{size}.zip"
    return [RemoteFile(name, (GROUPLENS + name,))]


def settings(dataset: str | None) -> Mapping[str, str]:
    """The settings of ``[source]`` of a data set. Raises a :class:`UsageError` with all names if it is unknown."""
    if dataset and dataset in DATASETS:
        return DATASETS[dataset]
    what = f"There is no data set '{dataset}' to download." if dataset else "Which data set to download?"
    hint = "--dataset NAME, such as synthetic, ml-100k or amazon-2014-beauty; genrec list datasets    shows all"
    raise UsageError(f"{what}{did_you_mean(dataset or '', DATASETS)}", hint=hint)


def check_name(dataset: str | None) -> str:
    """The name of a new data set. Raises a :class:`UsageError` if it is absent or cannot be the name of a folder."""
    if dataset is None:
        raise UsageError("Your own data needs a name.", hint="Add --dataset NAME")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", dataset):
        raise UsageError(f"'{dataset}' cannot be the name of a data set.", hint="64 letters, digits, - _ . at most")
    return dataset
