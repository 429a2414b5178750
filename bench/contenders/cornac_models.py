"""One training and evaluation of cornac's RPG, TIGER or GRU4Rec, timed, in an environment of its own: bench/peers.py.

Given codes take the place of its tokenizers. RPG's exact scores take that of its graph, whose construction is left out.
"""

import json
import sys
import time

import numpy as np
import torch._dynamo  # noqa: F401  (the first optimiser would import it while time is taken)
from cornac.eval_methods import NextItemEvaluation
from cornac.metrics import NDCG, Recall
from cornac.models import RPG, TIGER, GRU4Rec
from report import report


class Given:
    """Codes by raw item id (a row number). ``curve`` has the seconds and the value of each validation."""

    curve: list[tuple[float, float]]
    began: float

    def _validate(self, sessions, metric) -> float:
        value = super()._validate(sessions, metric)
        self.curve.append((time.perf_counter() - self.began, float(value)))
        return value

    def _get_item_features(self) -> np.ndarray:
        raw = sorted(self.train_set.iid_map, key=self.train_set.iid_map.get)
        return np.array(raw, dtype="float32")[:, None]


class GivenRPG(Given, RPG):
    """Decoded exactly."""

    def _opq_tokenize(self, feats: np.ndarray, train_mask: np.ndarray | None = None) -> np.ndarray:
        return self.given_IK[feats[:, 0].astype(int) - 1]

    def _build_backbone(self):
        backbone = super()._build_backbone()
        backbone.build_adjacency = lambda *_: np.empty((0, 0), dtype="int64")
        return backbone


class GivenTIGER(Given, TIGER):
    """It adds the digit against collisions itself."""

    def _tokenize(self, torch, feats_t) -> np.ndarray:
        return self.given_IK[feats_t[:, 0].long().numpy() - 1, :-1]


def build(asked: dict, codes_IK: np.ndarray) -> Given | GRU4Rec:
    """The model with the settings asked for."""
    if asked["model"] == "gru4rec":
        return GRU4Rec(
            layers=[asked["hidden"]],
            batch_size=asked["batch_size"],
            dropout_p_embed=asked["dropout"],
            learning_rate=asked["lr"],
            n_sample=asked["negatives"] - asked["batch_size"],  # the targets of the batch are the others
            n_epochs=asked["epochs"],
            seed=asked["seed"],
        )
    alike = {
        "max_len": asked["max_length"],
        "n_epochs": asked["epochs"],
        "learning_rate": asked["lr"],
        "batch_size": asked["batch_size"],
        "lr_schedule": "cosine",
        "warmup_steps": asked["warmup_steps"],
        "val_eval_every": asked.get("eval_every", asked["epochs"]),
        "model_selection": "best",
        "val_sample": asked["valid_users"],
        "device": "cpu",
        "seed": asked["seed"],
    }
    if asked["model"] == "tiger":
        model = GivenTIGER(
            rqvae_num_levels=codes_IK.shape[1] - 1,
            rqvae_codebook_size=256,
            d_model=asked["width"],
            d_ff=asked["inner"],
            num_heads=asked["heads"],
            d_kv=asked["head_width"],
            num_enc_layers=asked["layers"],
            num_dec_layers=asked["layers"],
            dropout=asked["dropout"],
            weight_decay=0.0,
            n_beams=asked["beams"],
            **alike,
        )
    else:
        model = GivenRPG(
            n_codebook=codes_IK.shape[1],
            codebook_size=256,
            pca_dim=0,
            d_model=asked["width"],
            n_layer=asked["layers"],
            n_head=asked["heads"],
            n_inner=asked["inner"],
            embd_dropout=asked["dropout"],
            attn_dropout=asked["dropout"],
            layer_norm_eps=1e-5,
            temperature=asked["temperature"],
            scoring="exact",
            val_batch_size=64,
            **alike,
        )
    model.given_IK, model.curve = codes_IK, []
    return model


def main() -> None:
    data, asked = np.load(sys.argv[1]), json.loads(sys.argv[2])
    split: dict[str, list[tuple[str, str, int, int]]] = {"train": [], "valid": [], "test": []}
    for u, (offset, length) in enumerate(zip(data["offset"], data["length"], strict=True)):
        row = [(f"u{u}", f"s{u}", int(i), t) for t, i in enumerate(data["item"][offset : offset + length])]
        split["train"] += row[:-2]
        split["valid"] += row[:-1]
        split["test"] += row
    method = NextItemEvaluation.from_splits(
        train_data=split["train"],
        val_data=split["valid"],
        test_data=split["test"],
        fmt="USIT",
        mode="last",
        exclude_unknowns=False,
        seed=asked["seed"],
    )
    model = build(asked, data["codes"])
    began = model.began = time.perf_counter()
    model.fit(method.train_set, method.val_set)
    trained = time.perf_counter()
    result = NextItemEvaluation.eval(
        model,
        method.train_set,
        method.test_set,
        exclude_unknowns=False,
        ranking_metrics=[NDCG(k=10), Recall(k=10)],
        mode="last",
    )
    ended = time.perf_counter()
    found = result.metric_avg_results
    report(trained - began, ended - trained, found["NDCG@10"], found["Recall@10"], curve=getattr(model, "curve", []))


if __name__ == "__main__":
    main()
