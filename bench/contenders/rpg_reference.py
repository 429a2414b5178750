"""One training of the RPG of its authors, timed, in an environment of its own: bench/quality.py.

The checkout of github.com/facebookresearch/RPG_KDD2025 is ``checkout`` of the settings; its licence is non-commercial,
so nothing of it is here. Given histories and codes take the place of its downloads and its tokenizer. Scores are exact,
as in its validation; the graph of its test is left out. Validation has as many users as ours.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from report import report


def build(asked: dict[str, Any], data: Any) -> tuple[Any, list[tuple[float, float]]]:
    """Its pipeline over the given histories and codes, and the curve that it fills."""
    sys.path.insert(0, asked["checkout"])
    from genrec.dataset import AbstractDataset
    from genrec.models.RPG.tokenizer import RPGTokenizer
    from genrec.pipeline import Pipeline
    from genrec.trainer import Trainer

    users = len(data["offset"])
    validated = set(np.random.default_rng(0).permutation(users)[: asked["valid_users"]].tolist())

    class Given(AbstractDataset):
        """Histories of the file; users and items are strings of their row numbers."""

        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__(config)
            for kind, count in (("user", users), ("item", len(data["codes"]))):
                names = self.id_mapping[f"id2{kind}"] = ["[PAD]", *(str(i) for i in range(1, count + 1))]
                self.id_mapping[f"{kind}2id"] = {name: i for i, name in enumerate(names)}
            for u, (offset, length) in enumerate(zip(data["offset"], data["length"], strict=True)):
                self.all_item_seqs[str(u + 1)] = [str(i) for i in data["item"][offset : offset + length]]

        def split(self) -> Any:
            parts = self._leave_one_out()
            parts["val"] = parts["val"].select(sorted(validated))
            return parts

    class GivenTokenizer(RPGTokenizer):
        def _init_tokenizer(self, dataset: AbstractDataset) -> dict[str, Any]:
            return self._sem_ids_to_tokens({str(i + 1): row.tolist() for i, row in enumerate(data["codes"])})

    class Timed(Trainer):
        def evaluate(self, dataloader: Any, split: str = "test") -> dict[str, float]:
            found = super().evaluate(dataloader, split)
            curve.append((time.perf_counter() - began, found["ndcg@10"]))
            print(curve[-1], file=sys.stderr, flush=True)
            return found

    settings = {
        "n_codebook": data["codes"].shape[1],
        "codebook_size": 256,
        "n_embd": asked["width"],
        "n_inner": asked["inner"],
        "n_head": asked["heads"],
        "n_layer": asked["layers"],
        "embd_pdrop": asked["dropout"],
        "attn_pdrop": asked["dropout"],
        "temperature": asked["temperature"],
        "lr": asked["lr"],
        "warmup_steps": asked["warmup_steps"],
        "train_batch_size": asked["batch_size"],
        "epochs": asked["epochs"],
        "rand_seed": asked["seed"],
        "reproducibility": False,
        "num_proc": None,
    }
    import genrec.pipeline

    genrec.pipeline.get_dataset = lambda _: Given
    genrec.pipeline.get_trainer = lambda _: Timed
    pipeline = Pipeline("RPG", "AmazonReviews2014", tokenizer=GivenTokenizer, config_dict=settings)
    curve: list[tuple[float, float]] = []
    began = time.perf_counter()
    return pipeline, curve


def main() -> None:
    data, asked = np.load(sys.argv[1]), json.loads(sys.argv[2])
    del sys.argv[1:]  # its file names hold all arguments
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pipeline, curve = build(asked, data)
        loaders = [
            torch.utils.data.DataLoader(
                pipeline.tokenized_datasets[split],
                batch_size=pipeline.config[f"{kind}_batch_size"],
                shuffle=split == "train",
                collate_fn=pipeline.tokenizer.collate_fn[split],
            )
            for split, kind in (("train", "train"), ("val", "eval"))
        ]
        pipeline.trainer.fit(*loaders)
        seconds, ndcg = curve[-1]
        report(seconds, 0.0, ndcg, 0.0, curve=curve)


if __name__ == "__main__":
    main()
