"""Dummy rows: few shapes of batches, and nothing else changed."""

import numpy as np
import pytest
import torch
from conftest import make_histories

from genrec_cli.data.bucketing import bucketed, padding_rows
from genrec_cli.data.sequences import Rows
from genrec_cli.engine.graphs import FlatBatch


def test_round_numbers_are_at_most_an_eighth_away():
    sizes = np.arange(1, 5000)
    round_numbers = np.array([bucketed(int(size)) for size in sizes])
    assert (round_numbers >= sizes).all() and (np.diff(round_numbers) >= 0).all()
    large = sizes >= 256
    assert (round_numbers[large] / sizes[large]).max() < 1.125 + 1e-9
    assert len(set(round_numbers[sizes >= 2048])) <= 11


@pytest.mark.parametrize("one_each", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_dummies_bring_every_size_to_a_round_number(seed, one_each):
    random = np.random.default_rng(seed)
    length = random.integers(1, 51, random.integers(1, 300))
    targets = len(length) if one_each else int(random.integers(len(length) + 1, length.sum() + 2))
    extra = padding_rows(length, targets, 50)
    items = int(length.sum() + extra.length_F.sum())
    assert items == bucketed(items) and extra.longest <= 50
    assert extra.length_F.min() >= 1 and extra.length_F.max() <= extra.longest >= length.max()
    assert len(extra.learned) == extra.length_F.sum()
    if one_each:
        assert (np.add.reduceat(extra.learned, extra.length_F.cumsum() - extra.length_F) == 1).all()
    else:
        assert targets + extra.learned.sum() == bucketed(targets)


@pytest.mark.parametrize("max_length", [1, 2, 3, 8])
def test_dummies_are_no_longer_than_short_histories(max_length):
    """Short rows hold little, so it takes many of them; one that is too long would lie outside of the grid."""
    random = np.random.default_rng(0)
    for rows in range(1, 600):
        length = random.integers(1, max_length + 1, rows)
        for targets in {rows, int(length.sum())}:
            extra = padding_rows(length, targets, max_length)
            assert extra.length_F.min() >= 1 and extra.length_F.max() <= extra.longest <= max_length
            assert extra.learned.sum() == (len(extra.length_F) if targets == rows else bucketed(targets) - targets)


def test_a_batch_of_few_shapes_keeps_its_rows():
    histories = make_histories([5, 9, 6, 14, 6, 4, 7, 12] * 8, 30)
    rows = Rows.of(histories, max_length=8, windows="sliding")
    shapes, plain_shapes = set(), set()
    for step in range(20):
        chosen = rows.order(0, step)[:32]
        plain, batch = rows.batch(histories, chosen), rows.batch(histories, chosen, bucketed=True)
        real = len(plain.item_N)
        assert torch.equal(batch.item_N[:real], plain.item_N) and torch.equal(batch.target_N[:real], plain.target_N)
        assert torch.equal(batch.learn_M[: len(plain.learn_M)], plain.learn_M)
        assert (batch.target_N[batch.learn_M[len(plain.learn_M) :]] == 0).all() and (batch.item_N >= 1).all()
        plain_shapes.add((len(plain.item_N), len(plain.learn_M)))
        shapes.add((len(batch.item_N), len(batch.learn_M), batch.packing.sequences, batch.packing.grid.longest))
    assert len(shapes) <= 4 < len(plain_shapes)


def test_a_batch_travels_as_one_tensor(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # a CPU has no use for it
    histories = make_histories([5, 9, 6, 14], 30)
    rows = Rows.of(histories, max_length=8, windows="sliding")
    batch = rows.batch(histories, np.arange(len(rows)), bucketed=True)
    flat = FlatBatch.of(batch)
    again = flat.at(flat.numbers.clone())
    assert all(torch.equal(a, b) for a, b in zip(batch.tensors(), again.tensors(), strict=True))
    assert again.packing.parts[0] is again.packing.grid
