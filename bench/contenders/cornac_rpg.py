"""One training and evaluation of cornac's RPG, timed. Runs in cornac's own environment; see bench/peers.py.

Given codes take the place of its tokenizer, exact scores that of its graph, whose construction is left out.
"""

import json
import resource
import sys
import time

import numpy as np
from cornac.eval_methods import NextItemEvaluation
from cornac.metrics import NDCG, Recall
from cornac.models import RPG


class GivenCodes(RPG):
    """RPG with codes by raw item id (a row number), decoded exactly."""

    def _get_item_features(self) -> np.ndarray:
        raw = sorted(self.train_set.iid_map, key=self.train_set.iid_map.get)
        return np.array(raw, dtype="float32")[:, None]

    def _opq_tokenize(self, feats: np.ndarray, train_mask: np.ndarray | None = None) -> np.ndarray:
        return self.given_IK[feats[:, 0].astype(int) - 1]

    def _build_backbone(self):
        backbone = super()._build_backbone()
        backbone.build_adjacency = lambda *_: np.empty((0, 0), dtype="int64")
        return backbone


def main() -> None:
    data, asked = np.load(sys.argv[1]), json.loads(sys.argv[2])
    split: dict[str, list[tuple[str, str, int, int]]] = {"train": [], "valid": [], "test": []}
    for u, (offset, length) in enumerate(zip(data["offset"], data["length"], strict=True)):
        row = [(f"u{u}", f"s{u}", int(i), t) for t, i in enumerate(data["item"][offset : offset + length])]
        split["train"] += row[:-2]
        split["valid"] += row[:-1]
        split["test"] += row
    method = NextItemEvaluation.from_splits(
        train_data=split["train"], val_data=split["valid"], test_data=split["test"], fmt="USIT", mode="last",
        exclude_unknowns=False, seed=asked["seed"],
    )  # fmt: skip
    model = GivenCodes(
        n_codebook=data["codes"].shape[1], codebook_size=256, pca_dim=0, d_model=asked["width"],
        n_layer=asked["layers"], n_head=asked["heads"], n_inner=asked["inner"], embd_dropout=asked["dropout"],
        attn_dropout=asked["dropout"], layer_norm_eps=1e-5, max_len=asked["max_length"],
        temperature=asked["temperature"], n_epochs=asked["epochs"], learning_rate=asked["lr"],
        batch_size=asked["batch_size"], lr_schedule="cosine", warmup_steps=asked["warmup_steps"], scoring="exact",
        model_selection="best", val_eval_every=asked["epochs"], val_batch_size=64, val_sample=None, device="cpu",
        seed=asked["seed"],
    )  # fmt: skip
    model.given_IK = data["codes"]
    began = time.perf_counter()
    model.fit(method.train_set, method.val_set)
    trained = time.perf_counter()
    result = NextItemEvaluation.eval(
        model, method.train_set, method.test_set, exclude_unknowns=False,
        ranking_metrics=[NDCG(k=10), Recall(k=10)], mode="last",
    )  # fmt: skip
    ended = time.perf_counter()
    found = result.metric_avg_results
    print(json.dumps({
        "train": trained - began, "evaluate": ended - trained, "NDCG@10": float(found["NDCG@10"]),
        "Recall@10": float(found["Recall@10"]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
