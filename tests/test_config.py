"""Configuration is strict and inert: what is not exactly right is refused, and nothing is ever evaluated."""

import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_cli.config import (
    Section,
    canonical_json,
    did_you_mean,
    merge,
    parse_set,
    read_toml,
    refuse_unread,
    validate,
)
from genrec_cli.errors import ConfigError, UsageError


class Train(Section):
    """A section to test with."""

    lr: float = 1e-3
    """Peak learning rate."""
    epochs: int = 10
    shuffle: bool = True
    loss: Literal["ce", "bce"] = "ce"
    fields: tuple[str, ...] = ()
    name: str | None = None


def one(text: str) -> object:
    """The value of ``--set train.key=<text>``."""
    return parse_set([f"train.key={text}"])["train"]["key"]


# ---- --set -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("7", 7),
        ("-3", -3),
        ("1_000", 1000),
        ("0.5", 0.5),
        ("true", True),
        ("false", False),
        ("'a b'", "a b"),
        ('"a=b"', "a=b"),
        ("[1, 2]", [1, 2]),
        ('["title", "brand"]', ["title", "brand"]),
        ("{ plateau = 5 }", {"plateau": 5}),
        ("r-e-inf", "r-e-inf"),
        ("cuda:0", "cuda:0"),
        ("NDCG@10", "NDCG@10"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("no", "no"),
        ("/data/ids of items.txt", "/data/ids of items.txt"),
        ("~/x", "~/x"),
        ("007", "007"),
        ("[1, 2", None),
        ("'open", None),
        ("", None),
        ("{ a = 1", None),
        ("[" * 500 + "]" * 500, None),
        ("7" * 5000, "7" * 5000),
    ],
)
def test_values_are_toml_or_text(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(UsageError, match="not a TOML value"):
            one(text)
    else:
        assert one(text) == value and type(one(text)) is type(value)


def test_a_date_is_its_text() -> None:
    values = parse_set(["train.name=2017-07-14"])["train"]
    assert validate(Train, "train", values).name == "2017-07-14"
    with pytest.raises(ConfigError, match=r"train.lr: .* number .*2017-07-14"):
        validate(Train, "train", parse_set(["train.lr=2017-07-14"])["train"])


@pytest.mark.parametrize("text", ["train.lr", "lr=1", "=1", ".lr=1", "train.=1", "train=1", ""])
def test_a_set_needs_section_key_and_value(text: str) -> None:
    with pytest.raises(UsageError, match=r"section\.key=value"):
        parse_set([text])


def test_later_words_win_and_sections_gather() -> None:
    layer = parse_set(["train.lr=1", "train.epochs=2", "model.width=3", "train.lr=4"])
    assert layer == {"train": {"lr": 4, "epochs": 2}, "model": {"width": 3}}


HOSTILE = [
    "__import__('os').system('touch HERE')",
    "open('HERE', 'w')",
    "eval(\"open('HERE','w')\")",
    "$(touch HERE)",
    "`touch HERE`",
    "!!python/object/apply:os.system ['touch HERE']",
    "${jndi:ldap://x}",
    "lambda: 0",
    "; touch HERE",
    "1\ninjected = 2",
    "1\n[other]\nx = 1",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_are_refused_never_evaluated(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        layer = parse_set([f"train.lr={text}"])
    except UsageError:
        layer = {}
    assert list(tmp_path.iterdir()) == [], "something ran"
    assert set(layer) <= {"train"} and set(layer.get("train", {})) <= {"lr"}, "a value stays one value"
    with pytest.raises((UsageError, ConfigError)):
        validate(Train, "train", parse_set([f"train.name={text}", f"train.epochs={text}"])["train"])


@pytest.mark.parametrize("text", ["1\nlr = 2", "1\n[other]\nx = 1"])
def test_one_word_sets_one_key(text: str) -> None:
    with pytest.raises(UsageError, match="not a TOML value"):
        one(text)


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    try:
        layer = parse_set([f"train.lr={text}"])
    except UsageError:
        return
    assert set(layer) == {"train"} and set(layer["train"]) == {"lr"}


# ---- strictness --------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"train\.epoch: there is no such key\. Did you mean 'epochs'\?") as caught:
        validate(Train, "train", {"epoch": 3})
    assert "epochs" in str(caught.value.hint) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": "3"},
        {"epochs": 3.5},
        {"epochs": True},
        {"lr": "1e-3"},
        {"lr": True},
        {"shuffle": 1},
        {"shuffle": "yes"},
        {"loss": "CE"},
        {"fields": "title"},
        {"fields": [1]},
        {"name": 3},
        {"lr": None},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_name(values: dict[str, object]) -> None:
    ((key, value),) = values.items()
    with pytest.raises(ConfigError) as caught:
        validate(Train, "train", values)
    assert f"train.{key}" in caught.value.message and repr(value).strip("[]") in caught.value.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1, 2}, b"bytes", Path("x")], ids=str)
def test_values_without_a_json_form_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="must be a finite number"):
        validate(Train, "train", {"lr": value})


def test_a_whole_number_is_a_float_and_a_section_is_frozen() -> None:
    section = validate(Train, "train", {"lr": 1})
    assert section.lr == 1.0
    with pytest.raises(ValueError, match="frozen"):
        section.lr = 2.0


def test_the_text_under_a_field_is_its_help() -> None:
    assert Train.model_fields["lr"].description == "Peak learning rate."


# ---- files and layers --------------------------------------------------------------------------------


def test_later_layers_win_key_by_key_and_none_never_does() -> None:
    merged = merge(
        {"train": {"lr": 1, "epochs": 2}},
        {"train": {"lr": 3}},
        {"train": {"lr": None}, "model": {"width": 4}},
    )
    assert merged == {"train": {"lr": 3, "epochs": 2}, "model": {"width": 4}}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[train\nlr = 1", ConfigError, "not valid TOML"),
        ("[trian]\nlr = 1", ConfigError, "Did you mean 'train'"),
        ("train = 3", ConfigError, "must be a section"),
        ("lr = 3", ConfigError, "no section 'lr'"),
        (b"\xff\xfe\x00", ConfigError, "not valid TOML"),
        (None, UsageError, "no configuration file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | bytes | None, error: type[Exception], message: str) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(error, match=message) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)


def test_a_file_may_hold_sections_of_several_stages(tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_text("[train]\nlr = 1e-3\n[recipe]\ntitle = 'x'\n[model]\nwidth = 8\n")
    assert set(read_toml(path)) == {"train", "recipe", "model"}


def test_a_set_of_a_section_that_is_not_read_is_refused() -> None:
    refuse_unread({"train": {}}, ["train", "model"], "train")
    with pytest.raises(UsageError, match="does not read the section 'model'"):
        refuse_unread({"model": {}}, ["preprocess"], "preprocess")


# ---- canonical JSON ----------------------------------------------------------------------------------


def test_canonical_json_is_one_text() -> None:
    assert canonical_json({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"é"],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(math.nan)


def test_suggestions_are_near_or_absent() -> None:
    assert did_you_mean("sasrek", ["rpg", "sasrec"]) == " Did you mean 'sasrec'?"
    assert did_you_mean("zzzz", ["rpg", "sasrec"]) == ""
