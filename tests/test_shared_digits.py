"""Examples of items that share digits, by hand."""

import torch

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.names import Names
from genrec_cli.stages.shared_digits import described, sharing

CODES = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 0], [0, 2]])
CATALOG = Catalog.of(torch.tensor([9, 1, 8, 2, 5]), CODES, 3)


def test_others_share_the_digit_and_as_few_others_as_can_be():
    assert sharing(CATALOG, 1) == [(0, 3, [5, 2, 3]), (0, 2, [4, 3])], "5 is better known than 2; 3 shares both"
    assert sharing(CATALOG, 4) == [(1, 0, []), (0, 2, [1, 3])]


def test_titles_are_shown_once_an_item():
    names = Names([], list("abcde"), ["A", "B", "C", "D", None])
    text = described(CATALOG, names, [4, 4])
    assert text.count("**D**") == 1
    assert "- digit 1, code 1, 0 others: none" in text and "- digit 2, code 0, 2 others: A; C" in text
    assert described(Catalog(5, CATALOG.train_count_I), names, [4]) == ""
