"""What exists, by name: one table of strings, readable without importing torch.

A new source, encoder, tokenizer, model or decoder is one file and one line here. Other packages add
theirs through the entry-point groups ``genrec.models``, ``genrec.encoders`` and so on.
"""

import importlib
from importlib.metadata import entry_points
from typing import Any

from genrec_cli.config import did_you_mean
from genrec_cli.errors import UsageError

TABLE: dict[str, dict[str, str]] = {
    "source": {
        "amazon-2014": "genrec_cli.sources.amazon:Amazon2014",
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
    },
    "model": {
        "popular": "genrec_cli.models.popular:Popular",
        "sasrec": "genrec_cli.models.sasrec:SasRec",
        "rpg": "genrec_cli.models.rpg:Rpg",
        "mhl": "genrec_cli.models.mhl:Mhl",
        "tiger": "genrec_cli.models.tiger:Tiger",
        "mdgr": "genrec_cli.models.mdgr:Mdgr",
    },
    "decoder": {
        "exhaustive": "genrec_cli.decoders.exhaustive:Exhaustive",
        "graph": "genrec_cli.decoders.graph:Graph",
        "beam": "genrec_cli.decoders.beam:Beam",
        "diffusion": "genrec_cli.decoders.diffusion:Diffusion",
    },
}


def names(kind: str) -> list[str]:
    """Every name of a kind, built-in first, then those that other packages register."""
    return [
        *TABLE[kind],
        *(e.name for e in entry_points(group=f"genrec.{kind}s") if e.name not in TABLE[kind]),
    ]


def check(kind: str, name: str) -> str:
    """The name itself if it exists; otherwise a usage error with the nearest one."""
    if name not in names(kind):
        raise UsageError(
            f"There is no {kind} '{name}'.{did_you_mean(name, names(kind))}",
            hint=f"genrec list {kind}s    shows all: {', '.join(names(kind))}",
        )
    return name


def load(kind: str, name: str) -> Any:
    """Import and return the class behind a name."""
    check(kind, name)
    if name in TABLE[kind]:
        module, _, attribute = TABLE[kind][name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    return next(e for e in entry_points(group=f"genrec.{kind}s") if e.name == name).load()
