"""One training and evaluation of RecTools' SASRec, HSTU or BERT4Rec, timed, in its own environment: bench/peers.py."""

import json
import sys
import time

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch._dynamo  # noqa: F401  (the first optimiser would import it while time is taken)
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
from report import report

MODELS = {"sasrec": SASRecModel, "hstu": HSTUModel, "bert4rec": BERT4RecModel}
OWN = {"hstu": {"relative_time_attention": False}, "bert4rec": {"mask_prob": 0.2}}


def main() -> None:
    data, asked = np.load(sys.argv[1]), json.loads(sys.argv[2])
    length, item = data["length"], data["item"].astype(int)
    user = np.repeat(np.arange(len(length)), length)
    step = np.arange(len(item)) - np.repeat(data["offset"], length)
    left = np.repeat(length, length) - step  # 1: the test item, 2: the validation item
    table = pd.DataFrame(
        {
            Columns.User: user,
            Columns.Item: item,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(step, unit="D"),
        }
    )
    target_U = item[left == 1]
    lightning.seed_everything(asked["seed"])
    model = MODELS[asked["model"]](
        n_blocks=asked["layers"],
        n_heads=asked["heads"],
        n_factors=asked["width"],
        dropout_rate=asked["dropout"],
        session_max_len=asked["max_length"],
        loss="softmax",
        lr=asked["lr"],
        batch_size=asked["batch_size"],
        epochs=asked["epochs"],
        **OWN.get(asked["model"], {}),
    )
    began = time.perf_counter()
    model.fit(Dataset.construct(table[left > 2]))
    trained = time.perf_counter()
    users = np.arange(len(length))
    known = Dataset.construct(table[left > 1])
    lists = model.recommend(users=users, dataset=known, k=10, filter_viewed=False, on_unsupported_targets="ignore")
    hit = lists[lists[Columns.Item].to_numpy() == target_U[lists[Columns.User].to_numpy()]]
    rank = hit[Columns.Rank].to_numpy()
    ended = time.perf_counter()
    report(trained - began, ended - trained, (1 / np.log2(rank + 1)).sum() / len(users), len(rank) / len(users))


if __name__ == "__main__":
    main()
