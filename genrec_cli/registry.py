"""The registry: names of parts as strings, so that listing them imports neither torch nor a model.

Other packages register parts through the entry-point groups ``genrec.models``, ``genrec.encoders`` and so on.
"""

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from genrec_cli.config import did_you_mean
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.files import sha256_file

OURS = ("genrec_cli", "torch", *sys.stdlib_module_names)
"""Packages whose code is not part of a key."""

TABLE: dict[str, dict[str, str]] = {
    "source": {
        "amazon-2014": "genrec_cli.sources.amazon:Amazon2014",
        "amazon-2018": "genrec_cli.sources.amazon:Amazon2018",
        "amazon-2023": "genrec_cli.sources.amazon:Amazon2023",
        "movielens": "genrec_cli.sources.movielens:MovieLens",
        "recbole": "genrec_cli.sources.recbole:RecBole",
        "synthetic": "genrec_cli.sources.synthetic:Synthetic",
        "logs": "genrec_cli.sources.logs:Logs",
    },
    "encoder": {
        "sentence-transformers": "genrec_cli.encoders.sentence:SentenceEncoder",
        "lsa": "genrec_cli.encoders.lsa:LsaEncoder",
        "vectors": "genrec_cli.encoders.vectors:VectorsEncoder",
    },
    "tokenizer": {
        "opq": "genrec_cli.tokenizers.opq:OpqTokenizer",
        "pq": "genrec_cli.tokenizers.pq:PqTokenizer",
        "rkmeans": "genrec_cli.tokenizers.rkmeans:RkmeansTokenizer",
        "rqvae": "genrec_cli.tokenizers.rqvae:RqvaeTokenizer",
        "text": "genrec_cli.tokenizers.text:TextTokenizer",
        "random": "genrec_cli.tokenizers.random:RandomTokenizer",
        "svd": "genrec_cli.tokenizers.svd:SvdTokenizer",
    },
    "model": {
        "popular": "genrec_cli.models.popular:Popular",
        "transitions": "genrec_cli.models.transitions:Transitions",
        "neighbours": "genrec_cli.models.neighbours:Neighbours",
        "sasrec": "genrec_cli.models.sasrec:SasRec",
        "bsarec": "genrec_cli.models.bsarec:BsaRec",
        "fdsa": "genrec_cli.models.fdsa:Fdsa",
        "s3rec-pretrain": "genrec_cli.models.s3rec:S3RecPretrain",
        "s3rec": "genrec_cli.models.s3rec:S3Rec",
        "gru4rec": "genrec_cli.models.gru4rec:Gru4Rec",
        "bert4rec": "genrec_cli.models.bert4rec:Bert4Rec",
        "caser": "genrec_cli.models.caser:Caser",
        "hgn": "genrec_cli.models.hgn:Hgn",
        "rpg": "genrec_cli.models.rpg:Rpg",
        "mhl": "genrec_cli.models.mhl:Mhl",
        "tiger": "genrec_cli.models.tiger:Tiger",
        "mdgr": "genrec_cli.models.mdgr:Mdgr",
        "hstu": "genrec_cli.models.hstu:Hstu",
        "vqrec": "genrec_cli.models.vqrec:VqRec",
        "recjpq": "genrec_cli.models.recjpq:RecJpq",
        "blend": "genrec_cli.models.blend:Blend",
    },
    "search": {
        "exhaustive": "genrec_cli.searches.exhaustive:Exhaustive",
        "graph": "genrec_cli.searches.graph:Graph",
        "beam": "genrec_cli.searches.beam:Beam",
        "diffusion": "genrec_cli.searches.diffusion:Diffusion",
    },
}


def plural(kind: str) -> str:
    """The plural of a kind."""
    return "searches" if kind == "search" else f"{kind}s"


def names(kind: str) -> list[str]:
    """All names of a kind, built-in ones first."""
    return list(_entries(kind))


def load(kind: str, name: str) -> Any:
    """Import the class of a name. Raises UsageError for an unknown name, ConfigError for a broken class of another
    package."""
    entries = _entries(kind)
    if name not in entries:
        hint = f"genrec list {plural(kind)}    shows all: {', '.join(entries)}"
        raise UsageError(f"There is no {kind} '{name}'.{did_you_mean(name, entries)}", hint=hint)
    entry = entries[name]
    try:
        return entry.load()
    except Exception as error:
        if name in TABLE[kind]:
            raise
        package = entry.dist.name if entry.dist else entry.module
        raise ConfigError(
            f"The {kind} '{name}' of the package {package} cannot be loaded: {type(error).__name__}: {error}. "
            f"Its entry point in the group {entry.group} is {name} = {entry.value}",
            hint=f"Correct the package or its entry point, or remove it: pip uninstall {package}",
        ) from error


def code_of(part: type) -> dict[str, str]:
    """The code of a class of another package, for keys: module -> SHA-256 of its source file, of the class and of all
    base classes that are not ours. Empty for a built-in class, whose stage has a version."""
    modules = {cls.__module__ for cls in part.__mro__}
    foreign = [module for module in sorted(modules) if module.partition(".")[0] not in OURS]
    files = {module: getattr(sys.modules.get(module), "__file__", None) for module in foreign}
    return {f"code/{module}": sha256_file(Path(file)) for module, file in files.items() if file}


def _entries(kind: str) -> dict[str, EntryPoint]:
    group = f"genrec.{plural(kind)}"
    built_in = {name: EntryPoint(name, target, group) for name, target in TABLE[kind].items()}
    return built_in | {e.name: e for e in entry_points(group=group) if e.name not in built_in}
