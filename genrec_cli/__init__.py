"""genrec: generative recommendation from raw logs to recommendations, one stage at a time."""

__version__ = "0.1.0"
