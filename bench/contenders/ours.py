"""One training and evaluation of ours, timed: ``python ours.py INPUT.npz SETTINGS``. See bench/peers.py."""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # the first optimiser would import it while time is taken
from report import report

from genrec_cli import registry
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, eval_batches
from genrec_cli.engine.evaluation import evaluate
from genrec_cli.engine.loop import Loop
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.engine.ranking import make_ranker


def main() -> None:
    data, asked = np.load(sys.argv[1]), json.loads(sys.argv[2])
    length = data["length"]
    histories = Histories(data["item"], data["offset"], length, length - 2, length - 2, length - 1)
    items, codes_IK = int(histories.item.max()), torch.from_numpy(data["codes"])
    torch.manual_seed(asked["seed"])
    kind, train_count_I = registry.load("model", asked["model"]), torch.ones(items, dtype=torch.long)
    coded = "codes" in kind.needs
    catalog = Catalog.of(train_count_I, codes_IK, 256) if coded else Catalog(items, train_count_I)
    if "attributes" in kind.needs:  # the first two codes of an item
        attribute_RA = torch.nn.functional.pad(codes_IK[:, :2] + torch.tensor([1, 257]), (0, 0, 1, 0))
        field_RA = torch.where(attribute_RA > 0, torch.arange(2), -1)
        catalog = Catalog(
            items, train_count_I, attribute_RA=attribute_RA, attributes=512, field_RA=field_RA, fields=("a", "b")
        )
    given = {name: value for name, value in asked.items() if name in kind.Config.model_fields}
    if "attention_dropout" in kind.Config.model_fields:
        given["attention_dropout"] = asked["dropout"]
    model = kind(kind.Config(**given), catalog, max_length=asked["max_length"])
    config = TrainConfig(
        epochs=asked["epochs"],
        batch_size=asked["batch_size"],
        lr=asked["lr"],
        warmup_steps=asked["warmup_steps"],
        seed=asked["seed"],
        max_length=asked["max_length"],
        eval_every=asked["epochs"],
        valid_users=asked["valid_users"],
        windows=asked["windows"],
        stride=asked["stride"],
        precision=asked["precision"],
    )
    search = registry.load("search", model.search)
    settings = search.Config(beams=asked["beams"]) if "beams" in asked else search.Config()
    ranker = make_ranker(model, catalog, search, settings)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        curriculum = CurriculumConfig(**asked.get("curriculum", {"preset": "inf"}))
        cpu, folder = torch.device("cpu"), Path(folder)
        Loop(model, catalog, histories, config, curriculum, cpu, folder, make_ranker=lambda: ranker).run()
        trained = time.perf_counter()
        user, at = histories.targets("test")
        batches = eval_batches(histories, user, at, max_length=asked["max_length"], batch_size=256)
        outcome = evaluate(ranker, batches, torch.device("cpu"), k=10)
        ended = time.perf_counter()
    found = outcome.means([10])
    report(trained - began, ended - trained, found["NDCG@10"], found["Recall@10"])


if __name__ == "__main__":
    main()
