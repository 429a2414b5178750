"""Text in place of semantic IDs: an item is the first K subwords of its title (MHL, Table 3).

The paper says "unstructured token sequences derived from item titles" and no more. Our reading: byte-pair
encoding (Sennrich et al., ACL 2016) over bytes, fitted on the titles of training items, with at most V
subwords. A code has the same meaning in every digit, so all digits share one embedding table. A shorter title is
padded, and padding is neither pooled, nor predicted, nor counted. Every title can be encoded, because every byte is a
subword. An item without a title has one code that no other item has.

The ``tokenizers`` library does the work; the codes do not depend on the machine or its number of cores.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.tokenizers.base import MAX_DIGITS, Need

FILE = "bpe.json"
UNTITLED = "[UNTITLED]"
"""The subword of items without a title; code 0."""
LEAST = 257
"""Subwords before any pair is joined: the 256 bytes and UNTITLED."""
CHUNK = 8192
"""Titles split at once."""


class TextConfig(Section):
    """``[tokenizer]`` of text."""

    name: Literal["text"] = "text"
    codebooks: int = Field(32, ge=1, le=MAX_DIGITS)
    """K: the most subwords of an item; a longer title is cut off."""
    codewords: int = Field(4096, ge=LEAST, le=4096)
    """V: the largest number of different subwords; few titles give fewer."""
    shared: Literal[True] = True
    """Whether all digits use one table of codewords: always True."""


class TextTokenizer:
    """Byte-pair encoding of titles."""

    Config = TextConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"titles"})

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def fit(self, titles: Sequence[str | None], train_I: np.ndarray) -> None:
        """Fit on the titles where ``train_I`` is true.

        Raises:
            DataError: none of them has one.
        """
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        known = [title for title, train in zip(titles, train_I.tolist(), strict=True) if train and title]
        if not known:
            raise DataError(
                "No training item has a title, so there are no subwords.",
                hint="Preprocess with items that have a title, or use another --tokenizer",
            )
        self.bpe = Tokenizer(models.BPE())
        self.bpe.normalizer = normalizers.NFKC()
        self.bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        self.bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        options = {"min_frequency": 2, "show_progress": False, "special_tokens": [UNTITLED]}
        trainer = trainers.BpeTrainer(vocab_size=self.config.codewords, initial_alphabet=alphabet, **options)
        self.bpe.train_from_iterator(known, trainer)

    def codes(self, titles: Sequence[str | None]) -> np.ndarray:
        """``codes_IK`` as int16: the first K subwords of each title, then -1 for padding."""
        digits, nothing = self.config.codebooks, self.config.codewords
        self.bpe.enable_truncation(digits)
        self.bpe.enable_padding(length=digits, pad_id=nothing, pad_token="")
        codes_IK = np.concatenate([np.array(chunk, dtype=np.int16) for chunk in self._split(titles)])
        self.bpe.no_truncation()
        self.bpe.no_padding()
        return np.where(codes_IK == nothing, np.int16(-1), codes_IK)

    def facts(self, titles: Sequence[str | None]) -> dict[str, Any]:
        """Number of subwords, mean length of a title, and the fractions of missing titles, cut titles and padding."""
        length_I = np.concatenate([[len(ids) for ids in chunk] for chunk in self._split(titles)])
        kept_I = length_I.clip(max=self.config.codebooks)
        return {
            "subwords": self.bpe.get_vocab_size(),
            "mean_length": float(length_I.mean()),
            "untitled_fraction": sum(not title for title in titles) / len(titles),
            "cut_fraction": float((length_I > kept_I).mean()),
            "padding_fraction": float(1 - kept_I.mean() / self.config.codebooks),
        }

    def save(self, folder: Path) -> None:
        """Write ``bpe.json``, the ``tokenizers`` library's own format."""
        (folder / FILE).write_text(self.bpe.to_str(pretty=True) + "\n", encoding="utf-8")

    def _split(self, titles: Sequence[str | None]) -> Iterator[list[list[int]]]:
        """Subwords of some titles at a time."""
        for begin in range(0, len(titles), CHUNK):
            some = [title or UNTITLED for title in titles[begin : begin + CHUNK]]
            yield [split.ids for split in self.bpe.encode_batch_fast(some)]
