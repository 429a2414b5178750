"""BSARec: its filter against numpy's Fourier transform, and its block by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_catalog

from genrec_cli.config import validate
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.models.bsarec import BsaRec, BsaRecConfig, FilterBlock, FrequencyFilter
from genrec_cli.nn.packing import Packing

LENGTHS, L, D = [2, 3, 6, 7], 8, 4


def by_fft(x_TD: np.ndarray, cutoff: int, beta_D: np.ndarray) -> np.ndarray:
    """The filter of one history at the right end of a row of L places, the others zero, as the authors lay it out."""
    row_LD = np.concatenate([np.zeros((L - len(x_TD), D)), x_TD])
    spectrum = np.fft.rfft(row_LD, axis=0)
    spectrum[cutoff:] = 0
    low_LD = np.fft.irfft(spectrum, n=L, axis=0)
    return (low_LD + beta_D**2 * (row_LD - low_LD))[L - len(x_TD) :]


@pytest.mark.parametrize("cutoff", [1, 3, L // 2 + 1])
@pytest.mark.parametrize("causal", [True, False])
def test_the_filter_equals_the_fourier_transform_of_each_row(cutoff: int, causal: bool) -> None:
    """Causal: the value at each place is the last one of the row that ends there."""
    torch.manual_seed(0)
    made = FrequencyFilter(D, L, cutoff, causal=causal)
    x_ND, beta_D = torch.randn(sum(LENGTHS), D), made.beta_D.detach().numpy()
    expected = []
    for x_TD in x_ND.split(LENGTHS):
        rows = range(1, len(x_TD) + 1) if causal else [len(x_TD)]
        filtered = [by_fft(x_TD[:end].numpy(), cutoff, beta_D) for end in rows]
        expected += [row[-1:] for row in filtered] if causal else filtered
    found_ND = made(x_ND, Packing.of(np.array(LENGTHS))).detach().numpy()
    np.testing.assert_allclose(found_ND, np.concatenate(expected), atol=1e-5)


def test_all_frequencies_leave_a_row_as_it_is() -> None:
    made = FrequencyFilter(D, L, L // 2 + 1, causal=False)
    x_ND = torch.randn(sum(LENGTHS), D)
    torch.testing.assert_close(made(x_ND, Packing.of(np.array(LENGTHS))), x_ND)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_block_mixes_filter_and_attention(norm: str, alpha: float) -> None:
    torch.manual_seed(0)
    sizes = SimpleNamespace(width=D, heads=2, inner=8, attention_dropout=0.0, activation="gelu", alpha=alpha, cutoff=2)
    block = FilterBlock(sizes, 0.0, True, 1e-5, norm, length=L).eval()
    for layer in (block.norm_filter, block.norm_attention):
        torch.nn.init.normal_(layer.weight)
    packing, x_ND, at_M = Packing.of(np.array(LENGTHS)), torch.randn(sum(LENGTHS), D), torch.tensor([1, 4, 17])
    if norm == "post":
        filtered = block.norm_filter(x_ND + block.filter(x_ND, packing))
        attended = block.norm_attention(x_ND + block.attention(x_ND, packing))
        mixed = alpha * filtered + (1 - alpha) * attended
        expected = block.norm_mlp(mixed + block.mlp(mixed))
    else:
        filtered = block.filter(block.norm_filter(x_ND), packing)
        attended = block.attention(block.norm_attention(x_ND), packing)
        mixed = x_ND + alpha * filtered + (1 - alpha) * attended
        expected = mixed + block.mlp(block.norm_mlp(mixed))
    torch.testing.assert_close(block(x_ND, packing), expected)
    torch.testing.assert_close(block(x_ND, packing, at_M), expected[at_M])


def test_the_authors_filter_needs_one_target_per_row() -> None:
    config, train = validate(BsaRecConfig, "model", {"causal": False}), TrainConfig()
    with pytest.raises(ConfigError, match="sees later items"):
        BsaRec.check(config, train)
    BsaRec.check(config, TrainConfig(windows="each"))
    assert not BsaRec(config, make_catalog(), max_length=L).causal
