"""What a training is refused for before any work, beside the checks of its model."""

from typing import Any

from genrec_cli.artifacts import Artifact
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.curriculum.target_masks import NoiseConfig
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.models.base import Model


def check_masking(kind: type[Model], model: str, curriculum: CurriculumConfig) -> None:
    """Refuse a curriculum with masks that the model cannot be trained with."""
    allowed = {"random": {"none", "random"}, "entropy": {"none", "random", "entropy"}}.get(kind.masking, {"none"})
    for phase in curriculum.phases():
        if phase.mask not in allowed:
            accepted = "no masks" if allowed == {"none"} else "random masks only"
            message = f"The model '{model}' takes {accepted}, and the phase '{phase.name}' has {phase.mask} masks."
            raise UsageError(message, hint="--curriculum inf    trains without masks")


def check_noise(noise: NoiseConfig) -> None:
    """Refuse settings of target masks that the preset does not read. ``ramp`` may be shared by runs of all presets."""
    curriculum = ("curriculum", "curriculum-history")
    for name, presets in {"gamma": curriculum, "std": curriculum, "rarity": curriculum[1:]}.items():
        value = getattr(noise, name)
        if noise.preset not in presets and value != NoiseConfig.model_fields[name].default:
            message = f"noise.{name} = {value} is not read with noise.preset = {noise.preset}."
            raise ConfigError(message, hint=f"--set noise.preset={presets[-1]}, or leave noise.{name} out")


def check_start(kind: type[Model], model: str, config: Any, max_length: int, init: Artifact | None) -> None:
    """Refuse to train the second stage of a model without a run of its first stage, or with one of another network."""
    first, given = kind.pretrained_by, init and init.config["model"]["name"]
    if not first:
        return
    if config.from_scratch:
        if init is not None:
            message = "model.from_scratch trains without --init-from, and --init-from is given."
            raise ConfigError(message, hint="Leave one of them out")
        return
    if init is None or given != first:
        found = f"--init-from names a run of '{given}'" if given else "--init-from is missing"
        message = f"The model '{model}' starts from a run of '{first}', and {found}."
        hint = f"genrec train --model {first}, then --init-from {first}-s0; or --set model.from_scratch=true"
        raise ConfigError(message, hint=hint)
    before = {f"model.{name}": init.config["model"][name] for name in kind.pretrained_with}
    before["train.max_length"] = init.config["train"]["max_length"]
    now = {f"model.{name}": getattr(config, name) for name in kind.pretrained_with} | {"train.max_length": max_length}
    if other := [name for name in now if now[name] != before[name]]:
        message = f"{init.path.name} was trained with {other[0]} = {before[other[0]]}, not {now[other[0]]}."
        raise ConfigError(message, hint=" ".join(f"--set {name}={before[name]}" for name in other))
