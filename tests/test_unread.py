"""Settings that nothing would read are refused or named."""

import re
from pathlib import Path

import pytest
from shop import SMALL_SHOP, genrec

from genrec_cli import registry
from genrec_cli.curriculum.target_masks import NoiseConfig
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError
from genrec_cli.stages.train_checks import check_noise


@pytest.mark.parametrize(
    "model, settings, said",
    [
        ("sasrec", {"loss": "bce", "gbce_t": 0.5}, "model.gbce_t = 0.5 is of model.loss = gbce, and the loss is bce"),
        ("gru4rec", {"bpr_max_regularisation": 2.0}, "is of model.loss = bpr_max, and the loss is ce"),
        ("rpg", {"item_mix": 4.0}, "model.item_mix = 4.0 is of the item head, which is off"),
        ("mhl", {"count_factor": 2.0}, "model.count_factor = 2.0 is of the item head, which is off"),
    ],
)
def test_a_setting_of_another_loss_or_of_no_head_is_refused(model: str, settings: dict, said: str) -> None:
    kind = registry.load("model", model)
    with pytest.raises(ConfigError, match=re.escape(said)):
        kind.check(kind.Config(**settings), TrainConfig())
    on = {"loss": "gbce"} if "gbce_t" in settings else {"loss": "bpr_max", "item_weight": 1.0}
    on = {name: value for name, value in on.items() if name in kind.Config.model_fields}
    kind.check(kind.Config(**{**settings, **on}), TrainConfig())


def test_settings_of_target_masks_fit_the_preset() -> None:
    for noise, said in (
        ({"preset": "random", "gamma": 3.0}, "noise.gamma = 3.0 is not read with noise.preset = random"),
        ({"preset": "random", "std": 0.5}, "noise.std"),
        ({"preset": "curriculum", "rarity": 2.0}, "noise.rarity = 2.0 is not read with noise.preset = curriculum"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            check_noise(NoiseConfig(**noise))
        check_noise(NoiseConfig(**{**noise, "preset": "curriculum-history"}))
    check_noise(NoiseConfig(preset="random", ramp=0.05, gamma=2.0))


def test_options_that_a_count_model_does_not_read_are_named(tmp_path: Path) -> None:
    for words in (SMALL_SHOP, ["preprocess"]):
        assert genrec(tmp_path, *words).code == 0
    words = ["--model", "popular", "--epochs", "3", "--lr", "0.1", "--seed", "1", "--set", "train.clip=2.0"]
    answer = genrec(tmp_path, "train", *words)
    assert answer.code == 0
    assert "'popular' counts in one pass over the data: it does not read train.clip, --epochs, --lr." in answer.err
