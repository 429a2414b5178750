"""One training and evaluation of RecBole's Caser, HGN, FDSA or S3-Rec (the pre-training), timed, in an environment of
its own: bench/peers.py.

RecBole learns one target per row, so a batch has as many rows as one of ours has targets on average; where ours has a
row for each target, too, it has as many rows as ours. Its attributes (FDSA, S3-Rec) are the first two codes of an item.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch._dynamo  # noqa: F401  (the first optimiser would import it while time is taken)
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from report import report

NAMES = {"caser": "Caser", "hgn": "HGN", "fdsa": "FDSA", "s3rec-pretrain": "S3Rec"}


def write(data: dict[str, np.ndarray], folder: Path) -> None:
    """RecBole's atomic files."""
    length, item = data["length"], data["item"].astype(int)
    user = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(item)) - np.repeat(data["offset"], length)
    lines = [f"{u}\t{i}\t{t}" for u, i, t in zip(user, item, place, strict=True)]
    lines.insert(0, "user_id:token\titem_id:token\ttimestamp:float")
    (folder / "shop").mkdir()
    (folder / "shop" / "shop.inter").write_text("\n".join(lines) + "\n")
    rows = [f"{i}\tfirst{a} second{b}" for i, (a, b) in enumerate(data["codes"][:, :2], 1)]
    rows.insert(0, "item_id:token\tclass:token_seq")
    (folder / "shop" / "shop.item").write_text("\n".join(rows) + "\n")


def main() -> None:
    data, asked = np.load(sys.argv[1]), json.loads(sys.argv[2])
    targets = np.minimum(data["length"] - 3, asked["max_length"]).mean() if asked["windows"] == "recent" else 1
    with tempfile.TemporaryDirectory() as folder:
        write(data, Path(folder))
        os.chdir(folder)  # RecBole writes its logs to the working folder
        settings = {
            "data_path": folder,
            "checkpoint_dir": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
            "MAX_ITEM_LIST_LENGTH": asked.get("window", asked["max_length"]),
            "train_neg_sample_args": None,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "metrics": ["NDCG", "Recall"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
            "seed": asked["seed"],
            "epochs": asked["epochs"],
            "eval_step": asked["epochs"],
            "train_batch_size": max(round(asked["batch_size"] * targets), 1),
            "eval_batch_size": 256,
            "learning_rate": asked["lr"],
            "embedding_size": asked["width"],
            "hidden_size": asked["width"],
            "inner_size": asked.get("inner", asked["width"]),
            "n_layers": asked.get("layers", 2),
            "n_heads": asked.get("heads", 2),
            "dropout_prob": asked["dropout"],
            "hidden_dropout_prob": asked["dropout"],
            "attn_dropout_prob": asked["dropout"],
            "nh": asked.get("horizontal", 8),
            "nv": asked.get("vertical", 4),
            "pretrain_epochs": asked["epochs"],
            "save_step": asked["epochs"] + 1,  # never
        }
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        config = Config(model=NAMES[asked["model"]], dataset="shop", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        model = get_model(config["model"])(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        began = time.perf_counter()
        trainer.fit(train, valid, verbose=False, saved=False)
        trained = time.perf_counter()
        found = trainer.evaluate(test, load_best_model=False)
        ended = time.perf_counter()
    report(trained - began, ended - trained, found["ndcg@10"], found["recall@10"])


if __name__ == "__main__":
    main()
