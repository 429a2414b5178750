"""genrec: generative recommendation from raw logs to recommendations, one stage at a time.

In Python: ``import genrec_cli as genrec``; its functions are those of :mod:`genrec_cli.api`, imported at first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_cli.api import blend, compare, download, evaluate, load, preprocess, tokenize, train
    from genrec_cli.errors import GenrecError

__version__ = "0.1.0"
__all__ = ["GenrecError", "blend", "compare", "download", "evaluate", "load", "preprocess", "tokenize", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``import genrec_cli`` imports neither torch nor polars."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'genrec_cli' has no attribute '{name}'")
    module = import_module("genrec_cli.errors" if name == "GenrecError" else "genrec_cli.api")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
