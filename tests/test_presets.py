"""Every row of MHL's Table 2 from the command line: presets x granularity, each phase entered with its ratio."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shop import TINY, genrec, small_codes

RATIO = 0.4
PHASES = {
    "inf": ["inference"] * 3,
    "r": ["random"] * 3,
    "e": ["entropy"] * 3,
    "r-inf": ["random", "inference", "inference"],
    "e-inf": ["entropy", "inference", "inference"],
    "r-e-inf": ["random", "entropy", "inference"],
}
"""What three epochs walk through, with one epoch for each masking phase before the last."""
CASES = [(p, g) for p in PHASES for g in ("token", "item", "mixed") if p != "inf" or g == "token"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_codes(tmp_path_factory.mktemp("presets"))


def test_settings_of_presets_beside_phases_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "phases.toml").write_text('[[curriculum.phase]]\nname = "mine"\nuntil = { plateau = 3 }\n')
    words = ["train", "--model", "mhl", *TINY, "--epochs", "1", "--config", tmp_path / "phases.toml"]
    answer = genrec(root, *words, "--curriculum", "inf")
    assert answer.code == 2 and "curriculum.preset is of the presets" in answer.err
    assert genrec(root, *words).manifest["config"]["curriculum"]["phase"][0]["name"] == "mine"


@pytest.mark.parametrize("preset, granularity", CASES)
def test_a_preset_enters_each_of_its_phases_with_its_ratio(root: Path, preset: str, granularity: str) -> None:
    settings = {"granularity": f'"{granularity}"', "ratio": RATIO, "max_epochs": 1, "budget": '"rounded"'}
    words = [word for key, value in settings.items() for word in ("--set", f"curriculum.{key}={value}")]
    answer = genrec(root, "train", "--model", "mhl", *TINY, "--curriculum", preset, "--epochs", "3", *words)
    assert answer.code == 0, answer.err
    log = pq.read_table(answer.path / "log.parquet").to_pylist()
    assert [row["phase"] for row in log] == PHASES[preset]
    for row in log:
        masked = row["phase"] != "inference"
        assert row["ratio"] == (RATIO if masked else 0.0)
        assert (row.get("loss/mask") is not None) == masked
        if masked:
            assert row["loss/masked_fraction"] == pytest.approx(RATIO, abs=0.05), "what was asked for was really masked"
