"""What models learn on synthetic data: the order where there is one, nothing where there is none.

A model that sees its target fails where there is no order: the training loss falls below that of a guess, or the
evaluation has more hits than by chance.
"""

from math import log, sqrt
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from shop import genrec

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import eval_batches
from genrec_cli.stages.trained import Run

SMALL = {"model.width": 32, "model.heads": 2, "model.inner": 64, "model.dropout": 0.1}
SMALL |= {"train.lr": 0.005, "train.warmup_steps": 20}


def settings(values: dict[str, float]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def make_shop(root: Path, **dials: float) -> None:
    dials = {"text": 0.0} | dials  # behaviour tells everything
    for words in (
        ["download", "--dataset", "synthetic", *settings({f"source.{key}": value for key, value in dials.items()})],
        ["preprocess"],
        ["tokenize", "--codebooks", "8", "--codewords", "32"],
        ["train", "--model", "popular"],
    ):
        assert genrec(root, *words).code == 0


def train(root: Path, model: str, *words: str) -> Path:
    return genrec(root, "train", "--model", model, "--device", "cpu", *settings(SMALL), *words).path


def metrics(root: Path, model: str) -> dict[str, float]:
    return genrec(root, "evaluate", "--run", f"{model}-s0").manifest["result"]["metrics"]["kept"]


@pytest.fixture(scope="module")
def ordered(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ordered")
    make_shop(root, users=1200, items=300, order=1.0, noise=0.0)
    return root


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory) -> Path:
    """Independent draws from many equally likely items: a history does not predict the next item (except that it is
    none of some nine in a thousand), and neither do the counts."""
    root = tmp_path_factory.mktemp("shuffled")
    make_shop(root, users=1500, items=1000, order=0.0, popularity=0.0)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sasrec", "rpg"])
def test_order_is_learned(ordered, model):
    """Of the synthetic steps three of four have one right answer, most others some ten items."""
    train(ordered, model, "--epochs", "6")
    assert metrics(ordered, model)["NDCG@10"] > 4 * metrics(ordered, "popular")["NDCG@10"]


@pytest.mark.slow
def test_order_is_learned_by_a_model_that_generates(ordered):
    """In three short epochs, since its steps cost more than those of the models above."""
    sizes = {"model.layers": 1, "model.head_width": 16, "train.batch_size": 64, "train.valid_users": 100}
    sizes["train.lr"] = 0.05  # Adafactor: a fraction of the size of the weights
    train(ordered, "tiger", *settings(sizes | {"model.dropout": 0.0, "model.attention_dropout": 0.0}), "--epochs", "3")
    assert metrics(ordered, "tiger")["NDCG@10"] > 1.5 * metrics(ordered, "popular")["NDCG@10"]


@pytest.mark.slow
@pytest.mark.parametrize("model, choices", [("sasrec", 1000), ("rpg", 32)])
def test_nothing_is_learned_where_there_is_no_order(shuffled, model, choices):
    """Each list of 10 hits a target with p = 10 / items, whatever the model. The hits of two models are then
    two binomial draws of mean n p, and their difference has a standard deviation of at most sqrt(2 n p): five of them
    are exceeded by chance once in three million. Seeing the target would give n hits, not some 40."""
    run = train(shuffled, model, "--epochs", "4")
    loss = pq.read_table(run / "log.parquet").column("loss/next").to_pylist()[-1]
    assert loss > 0.9 * log(choices), "a guess costs log(choices); four epochs memorise little"
    answer = genrec(shuffled, "evaluate", "--run", f"{model}-s0")
    users = answer.manifest["result"]["users"]
    chance = users * 10 / pq.read_metadata(data_of(shuffled).path / "items.parquet").num_rows
    hits = metrics(shuffled, model)["Recall@10"] * users
    popular = metrics(shuffled, "popular")["Recall@10"] * users
    assert chance + 5 * sqrt(2 * chance) < users / 10, "the bound must be able to fail"
    assert hits - popular < 5 * sqrt(2 * chance)
    assert hits < chance + 5 * sqrt(chance)


@pytest.mark.slow
def test_masked_items_of_an_intent_are_reconstructed_better_than_noise(tmp_path):
    """Each user's last item, which is not in training, is masked; the state at its place depends on the history. It
    predicts an item that follows the synthetic plan, and cannot predict a random one."""
    make_shop(tmp_path, users=1200, items=300, order=1.0, noise=0.25)
    words = ["--curriculum", "r", "--set", "curriculum.granularity=item", "--set", "curriculum.ratio=0.3"]
    path = train(tmp_path, "mhl", *words, "--epochs", "15")
    ws = Workspace(tmp_path)
    run = ws.find("synthetic", "runs", str(path))
    logp, noise = reconstruction(ws, run), noise_of_last_items(ws)
    planned, random = logp[~noise], logp[noise]
    assert len(random) > 200
    error = sqrt(float(planned.var()) / len(planned) + float(random.var()) / len(random))
    assert planned.mean() - random.mean() > max(0.2, 5 * error)


def data_of(root: Path) -> Artifact:
    return Workspace(root).find("synthetic", "data")


@torch.inference_mode()
def reconstruction(ws: Workspace, run: Artifact) -> torch.Tensor:
    """Mean log-probability of the true codes of each user's last item, all its codes masked."""
    model, histories = (of := Run(ws, run)).model, of.histories
    user, at = histories.targets("test")
    found = torch.empty(histories.users)
    for known in eval_batches(histories, user, at + 1, max_length=50, batch_size=256):
        batch, last_B = known.batch, known.batch.packing.last_B
        token_NK = model.tokens(batch)
        mask_NK = torch.zeros_like(token_NK, dtype=torch.bool)
        mask_NK[last_B] = True
        logp_KBV = model.logits(model.states(model.apply_mask(token_NK, mask_NK, batch), batch, last_B)).log_softmax(-1)
        code_KB1 = model.codes_of(batch.item_N[last_B]).t()[..., None]
        found[batch.user_B] = logp_KBV.gather(2, code_KB1)[..., 0].mean(0)
    return found[torch.from_numpy(user)]


def noise_of_last_items(ws: Workspace) -> torch.Tensor:
    """Whether each test user's last item is noise, by the labels. No user takes an item twice."""
    table = pq.read_table(ws.find("synthetic", "raw").path / "labels.parquet", columns=["user", "item", "noise"])
    noise = {(row["user"], row["item"]): row["noise"] for row in table.to_pylist()}
    data = ws.find("synthetic", "data")
    names = Names.read(data.path)
    item = pq.read_table(data.path / "interactions.parquet", columns=["item"]).column(0).to_pylist()
    users = pq.read_table(data.path / "users.parquet").to_pylist()
    last = [(u["raw_id"], names.item[item[u["offset"] + u["test_at"]] - 1]) for u in users if u["test_at"] > 0]
    return torch.tensor([noise[pair] for pair in last])
