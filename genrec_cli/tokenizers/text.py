"""Subwords of titles in place of semantic IDs: the codes of an item are the first K subwords of its title.

MHL (Table 3) uses "unstructured token sequences derived from item titles". Here: byte-pair encoding (Sennrich et al.,
ACL 2016) over bytes with at most V subwords, fitted on the titles of training items. A code has the same meaning in
every digit, so all digits use one embedding table. Shorter titles are padded; padding is neither pooled, nor predicted,
nor counted. Every byte is a subword, so every title can be encoded. Items without a title have one reserved code.

The codes do not depend on the machine or its number of cores.
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
MIN_CODEWORDS = 257
"""The 256 bytes and UNTITLED."""
CHUNK = 8192
"""Titles encoded at a time."""


class TextConfig(Section):
    """``[tokenizer]`` of text."""

    name: Literal["text"] = "text"
    codebooks: int = Field(32, ge=1, le=MAX_DIGITS)
    """K: largest number of subwords of an item; longer titles are cut off."""
    codewords: int = Field(4096, ge=MIN_CODEWORDS, le=4096)
    """V: largest number of different subwords; few titles give fewer."""
    shared: Literal[True] = True
    """Whether all digits use one table of codewords: always true."""


class TextTokenizer:
    """Byte-pair encoding of titles."""

    Config = TextConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"titles"})

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    def fit(self, titles: Sequence[str | None], train_I: np.ndarray) -> None:
        """Fit on the titles where ``train_I`` is true. Raises DataError if all of these are missing."""
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        known = [title for title, train in zip(titles, train_I.tolist(), strict=True) if train and title]
        if not known:
            hint = "Preprocess with items that have a title, or use another --tokenizer"
            raise DataError("No training item has a title, so there are no subwords.", hint=hint)
        self.bpe = Tokenizer(models.BPE())
        self.bpe.normalizer = normalizers.NFKC()
        self.bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        self.bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=self.config.codewords,
            min_frequency=2,
            show_progress=False,
            special_tokens=[UNTITLED],
            initial_alphabet=alphabet,
        )
        self.bpe.train_from_iterator(known, trainer)

    def codes(self, titles: Sequence[str | None]) -> np.ndarray:
        """``codes_IK`` as int16: the first K subwords of each title, then -1 for padding."""
        digits, padding = self.config.codebooks, self.config.codewords
        self.bpe.enable_truncation(digits)
        self.bpe.enable_padding(length=digits, pad_id=padding, pad_token="")
        codes_IK = np.concatenate([np.array(chunk, dtype=np.int16) for chunk in self._encode(titles)])
        self.bpe.no_truncation()
        self.bpe.no_padding()
        return np.where(codes_IK == padding, np.int16(-1), codes_IK)

    def facts(self, titles: Sequence[str | None]) -> dict[str, Any]:
        """Number of subwords, mean title length, and the fractions of missing titles, cut titles and padding."""
        length_I = np.concatenate([[len(ids) for ids in chunk] for chunk in self._encode(titles)])
        kept_I = length_I.clip(max=self.config.codebooks)
        return {
            "subwords": self.bpe.get_vocab_size(),
            "mean_length": float(length_I.mean()),
            "untitled_fraction": sum(not title for title in titles) / len(titles),
            "cut_fraction": float((length_I > kept_I).mean()),
            "padding_fraction": float(1 - kept_I.mean() / self.config.codebooks),
        }

    def save(self, folder: Path) -> None:
        """Write ``bpe.json`` in the format of the ``tokenizers`` library."""
        (folder / FILE).write_text(self.bpe.to_str(pretty=True) + "\n", encoding="utf-8")

    def _encode(self, titles: Sequence[str | None]) -> Iterator[list[list[int]]]:
        """Subwords of the titles, chunk by chunk."""
        for start in range(0, len(titles), CHUNK):
            chunk = [title or UNTITLED for title in titles[start : start + CHUNK]]
            yield [encoding.ids for encoding in self.bpe.encode_batch_fast(chunk)]
