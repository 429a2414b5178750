"""The encoder of a causal model as an ONNX graph: ``model.onnx`` of an export.

Inputs: ``item_BT`` (int64), the item ids of B histories, oldest first, padded with 0 on the right; ``length_B``
(int64), their lengths, from 1 to T. An item id is its row of ``items.parquet``, from 1. Output: ``query_BD``, to be
multiplied with the item vectors in ``item_vectors.safetensors``, or ``logp_BKV``, log-probabilities of codes, of which
an item's score is the mean over its codes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec_cli.data.batch import Batch
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.models.base import CodeScorer, DotScorer, Model, scores_items
from genrec_cli.nn.causal_grid import causal_packing
from genrec_cli.stages.trained import Run

FILE, VECTORS = "model.onnx", "item_vectors.safetensors"
OPSET = 18


class HistoryEncoder(nn.Module):
    """Padded histories to what the search reads: ``query_BD`` or ``logp_BKV``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, item_BT: Tensor, length_B: Tensor) -> Tensor:
        rows, longest = item_BT.shape
        user_B = torch.full_like(length_B, -1)
        packing = causal_packing(length_B, longest)
        # Padding becomes any item: no real position sees it.
        batch = Batch(item_BT.reshape(rows * longest).clamp_min(1), packing, user_B)
        if isinstance(self.model, CodeScorer):
            return self.model.code_logprobs(batch)
        return cast(DotScorer, self.model).queries(batch)


def encoder_of(trained: Run) -> HistoryEncoder:
    """Raises UsageError for a model without one causal pass over a history."""
    model = trained.model
    one_pass = model.causal and model.trainable and isinstance(model, (CodeScorer, DotScorer))
    if scores_items(model):
        message = f"{trained.name} has an item head, and --onnx gives either scores of codes or item vectors."
        raise UsageError(message, hint="Leave --onnx out, or train with model.item_weight=0")
    if getattr(model, "prior", None) is not None:
        message = f"{trained.name} adds counts to its scores, which the graph of --onnx does not have."
        raise UsageError(message, hint="Leave --onnx out, or train with model.count_factor=0")
    if not one_pass or trained.needs & {"times", "users"}:
        message = f"The model '{trained.model_name}' has no causal encoder of histories that gives scores in one pass."
        raise UsageError(message, hint="Leave --onnx out; sasrec, rpg and mhl have one")
    return HistoryEncoder(model).eval()


def write_onnx(trained: Run, folder: Path) -> None:
    """Write ``model.onnx``, and the item vectors of a model of dot products.

    Raises:
        ConfigError: the packages onnx and onnxscript are not installed.
    """
    encoder = encoder_of(trained)
    name = "logp_BKV" if isinstance(encoder.model, CodeScorer) else "query_BD"
    longest = min(3, trained.max_length)  # of the example; any size from 2 on stands for all sizes
    example = (torch.ones(2, longest, dtype=torch.int64), torch.tensor([1, longest]))
    rows, length = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1, max=trained.max_length)
    shapes = {"item_BT": {0: rows} | ({1: length} if longest > 1 else {}), "length_B": {0: rows}}
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        message = "--onnx needs the packages onnx and onnxscript."
        raise ConfigError(message, hint='pip install "genrec-cli[onnx]"') from None
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            encoder,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(shapes),
            output_names=[name],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(str(folder / FILE), external_data=False)
    if isinstance(encoder.model, DotScorer):
        with torch.no_grad():
            save_file({"item_vectors": encoder.model.item_vectors().detach().contiguous().cpu()}, folder / VECTORS)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
