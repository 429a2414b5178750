"""PCA, OPQ against FAISS's factory, limits of K and V, quality against hand-made codes, and the command."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.cli import main
from genrec_cli.data.codes_table import codes_schema
from genrec_cli.data.histories import USER
from genrec_cli.data.schema import ITEMS, read_table, write_table
from genrec_cli.encoders.vectors import VectorsEncoder
from genrec_cli.errors import DataError, UsageError
from genrec_cli.tokenizers import quality
from genrec_cli.tokenizers.kmeans import check_codewords
from genrec_cli.tokenizers.opq import OpqConfig, OpqTokenizer
from genrec_cli.tokenizers.pca import Pca
from genrec_cli.tokenizers.pq import check_codebooks
from genrec_cli.tokenizers.random import RandomConfig, RandomTokenizer


def cloud(items: int, width: int, seed: int = 0) -> np.ndarray:
    """Vectors in loose groups, with axes of unequal variance."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(2, items // 10), width))
    rows = centres[generator.integers(len(centres), size=items)] + 0.4 * generator.normal(size=(items, width))
    return (rows * np.linspace(3, 0.5, width) + 1).astype(np.float32)


def fitted(vec_ID: np.ndarray, train_I: np.ndarray | None = None, **options: object) -> OpqTokenizer:
    tokenizer = OpqTokenizer(OpqConfig(**{"niter": 3, "niter_pq_0": 4, **options}))
    tokenizer.fit(vec_ID, np.ones(len(vec_ID), dtype=bool) if train_I is None else train_I)
    return tokenizer


# ---- PCA -----------------------------------------------------------------------------------------


def test_pca_equals_scikit_learn_up_to_signs_which_are_fixed() -> None:
    sklearn = pytest.importorskip("sklearn.decomposition")
    vec_ID = cloud(300, 24)
    ours = Pca.fit(vec_ID, 10)
    theirs = sklearn.PCA(10, whiten=True, svd_solver="full").fit(vec_ID.astype(np.float64))
    sign_P = np.sign((ours.components_PD * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.transform(vec_ID), theirs.transform(vec_ID) * sign_P, atol=1e-4)
    assert (np.take_along_axis(ours.components_PD, np.abs(ours.components_PD).argmax(1)[:, None], 1) > 0).all()
    np.testing.assert_allclose(np.cov(ours.transform(vec_ID).T), np.eye(10), atol=1e-4)


def test_pca_keeps_no_more_than_the_rank_and_a_row_does_not_depend_on_others() -> None:
    vec_ID = cloud(50, 6) @ np.random.default_rng(1).normal(size=(6, 40)).astype(np.float32)
    pca = Pca.fit(vec_ID, 128)
    assert len(pca.scale_P) == 6
    assert np.array_equal(pca.transform(vec_ID)[7:9], pca.transform(vec_ID[7:9]))
    with pytest.raises(DataError, match="same vector"):
        Pca.fit(np.ones((5, 4), dtype=np.float32), 2)
    with pytest.raises(DataError, match="width 40"):
        pca.transform(vec_ID[:, :39])


# ---- OPQ -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "digits", "bits"), [(600, 4, 8), (600, 8, 8), (400, 4, 4), (300, 16, 1)])
def test_codes_equal_the_faiss_factory_bit_for_bit(items: int, digits: int, bits: int) -> None:
    import faiss
    from threadpoolctl import threadpool_limits

    vec_ID = cloud(items, 40)
    ours = fitted(vec_ID, codebooks=digits, codewords=1 << bits, pca=32)
    reduced_IP = ours.reduced(vec_ID)
    index = faiss.index_factory(32, f"OPQ{digits},IVF1,PQ{digits}x{bits}np")
    rotation = faiss.downcast_VectorTransform(index.chain.at(0))
    rotation.niter, rotation.niter_pq, rotation.niter_pq_0 = 3, ours.config.niter_pq, 4
    with threadpool_limits(1):
        index.train(reduced_IP)
        index.add(reduced_IP)
    lists = faiss.downcast_index(index.index).invlists
    size = digits * bits // 8 if digits * bits % 8 == 0 else digits * bits // 8 + 1
    stored = faiss.rev_swig_ptr(lists.get_codes(0), items * size).reshape(items, size)
    packed = np.empty_like(stored)
    packed[faiss.rev_swig_ptr(lists.get_ids(0), items)] = stored
    assert np.array_equal(ours.codes(vec_ID), faiss.unpack_bitstrings(packed, digits, bits))
    np.testing.assert_allclose(ours.decode(ours.codes(vec_ID)), index.reconstruct_n(0, items), atol=1e-5)


@pytest.mark.parametrize("codewords", [2, 3, 64, 300])
def test_codes_are_the_nearest_codewords_for_any_v(codewords: int) -> None:
    vec_ID = cloud(400, 20)
    tokenizer = fitted(vec_ID, codebooks=4, codewords=codewords, pca=16)
    codes_IK = tokenizer.codes(vec_ID)
    assert codes_IK.dtype == np.uint16 and codes_IK.shape == (400, 4) and codes_IK.max() < codewords
    sub_IKS = (tokenizer.reduced(vec_ID) @ tokenizer.rotation_PP.T - tokenizer.coarse_P).reshape(400, 4, 4)
    distance_IKV = np.square(sub_IKS[:, :, None] - tokenizer.centroids_KVS).sum(axis=3, dtype=np.float64)
    chosen_IK = np.take_along_axis(distance_IKV, codes_IK[:, :, None].astype(int), axis=2)[:, :, 0]
    np.testing.assert_allclose(chosen_IK, distance_IKV.min(axis=2), atol=1e-5)
    assert quality.relative_error(tokenizer.reduced(vec_ID), tokenizer.decode(codes_IK)) < 0.95


def test_more_codewords_reconstruct_better_and_few_items_suffice() -> None:
    vec_ID = cloud(120, 20)  # fewer than the 256 codewords that train the rotation elsewhere
    errors = []
    for codewords in (4, 16, 100):
        tokenizer = fitted(vec_ID, codebooks=4, codewords=codewords, pca=16)
        errors.append(quality.relative_error(tokenizer.reduced(vec_ID), tokenizer.decode(tokenizer.codes(vec_ID))))
    assert errors[0] > errors[1] > errors[2]


def test_only_training_items_decide_the_codebook() -> None:
    vec_ID = cloud(300, 16)
    train_I = np.arange(300) < 250
    other_ID = vec_ID.copy()
    other_ID[~train_I] *= 5
    options = {"codebooks": 4, "codewords": 16, "pca": 8}
    first, second = fitted(vec_ID, train_I, **options), fitted(other_ID, train_I, **options)
    assert np.array_equal(first.centroids_KVS, second.centroids_KVS)
    everything = fitted(other_ID, train_I, pca_fit="all", **options)
    assert not np.array_equal(first.pca.mean_D, everything.pca.mean_D)


def test_seed_decides_and_threads_do_not(tmp_path: Path) -> None:
    script = (
        "import hashlib, numpy as np; from genrec_cli.tokenizers.opq import *\n"
        "vec = np.random.default_rng(0).normal(size=(700, 48)).astype('f4')\n"
        "for seed in (0, 0, 1):\n"
        "    o = OpqTokenizer(OpqConfig(codebooks=8, codewords=32, niter=3, seed=seed))\n"
        "    o.fit(vec, np.ones(700, bool)); print(hashlib.md5(o.codes(vec).tobytes()).hexdigest())"
    )
    outputs = []
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout.split())
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == outputs[0][1] != outputs[0][2]


def test_saved_and_loaded_gives_the_same_codes(tmp_path: Path) -> None:
    vec_ID = cloud(200, 16)
    tokenizer = fitted(vec_ID, codebooks=4, codewords=10, pca=8)
    tokenizer.save(tmp_path)
    loaded = OpqTokenizer.load(tmp_path)
    assert np.array_equal(loaded.codes(vec_ID), tokenizer.codes(vec_ID))
    assert np.array_equal(loaded.decode(loaded.codes(vec_ID)), tokenizer.decode(tokenizer.codes(vec_ID)))


def test_a_codebook_file_is_not_trusted(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = tmp_path / "codebook.safetensors"
    file.write_bytes(b"\xff" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        OpqTokenizer.load(tmp_path)
    fitted(cloud(100, 16), codebooks=4, codewords=4, pca=8).save(tmp_path)
    tensors = load_file(file)
    save_file({**tensors, "rotation": tensors["rotation"][:, :4].copy()}, file)
    with pytest.raises(DataError, match="do not fit together"):
        OpqTokenizer.load(tmp_path)
    save_file({**tensors, "centroids": tensors["centroids"] * np.float32("nan")}, file)
    with pytest.raises(DataError, match="not an OPQ codebook"):
        OpqTokenizer.load(tmp_path)


@pytest.mark.parametrize(("codebooks", "nearest"), [(30, 32), (33, 32), (0, 1), (-3, 1), (100, 128), (500, 128)])
def test_k_must_divide_the_width(codebooks: int, nearest: int) -> None:
    with pytest.raises(UsageError, match=f"the nearest that does: {nearest}") as caught:
        check_codebooks(codebooks, 128, 128)
    assert f"--codebooks {nearest}" in caught.value.hint


def test_vectors_of_a_low_rank_keep_a_multiple_of_k() -> None:
    made = fitted(cloud(60, 13), codebooks=4, codewords=8)
    same = fitted(cloud(60, 13), codebooks=4, codewords=8, pca=12)
    assert made.pca.components_PD.shape == (12, 13)
    assert np.array_equal(made.codes(cloud(60, 13)), same.codes(cloud(60, 13)))


def test_k_above_the_rank_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match=r"--pca 128, but the vectors have rank 13") as caught:
        fitted(cloud(60, 13), codebooks=16, codewords=8)
    assert "--codebooks 13" in caught.value.hint


@pytest.mark.parametrize(("codewords", "items", "largest"), [(1, 90, 90), (91, 90, 90), (5000, 9000, 4096)])
def test_v_has_limits(codewords: int, items: int, largest: int) -> None:
    with pytest.raises(UsageError, match=f"2 to {largest} do"):
        check_codewords(codewords, items)
    check_codewords(largest, items)


def test_one_item_needs_no_codebook() -> None:
    with pytest.raises(UsageError, match="there is 1") as caught:
        check_codewords(2, 1)
    assert "sasrec" in str(caught.value.hint)


# ---- random codes --------------------------------------------------------------------------------


def test_random_codes_are_uniform_and_follow_the_seed(tmp_path: Path) -> None:
    vec_ID = np.zeros((5000, 3), dtype=np.float32)
    tokenizer = RandomTokenizer(RandomConfig(codebooks=3, codewords=10))
    tokenizer.fit(vec_ID, np.ones(5000, dtype=bool))
    codes_IK = tokenizer.codes(vec_ID)
    assert codes_IK.dtype == np.uint16 and codes_IK.shape == (5000, 3)
    for digit in quality.digit_usage(codes_IK, 10):
        assert digit["used"] == 10 and digit["entropy"] == pytest.approx(np.log2(10), abs=0.01)
    assert np.array_equal(codes_IK[:50], tokenizer.codes(vec_ID[:50]))
    tokenizer.save(tmp_path)
    assert not list(tmp_path.iterdir()), "the settings say all"
    other = RandomTokenizer(RandomConfig(codebooks=3, codewords=10, seed=1))
    assert not np.array_equal(other.codes(vec_ID), codes_IK)


# ---- quality -------------------------------------------------------------------------------------


def test_collisions_and_digits_of_codes_written_by_hand() -> None:
    codes_IK = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [2, 3], [2, 3], [0, 3], [0, 0]], dtype=np.uint16)
    found = quality.collisions(codes_IK)
    assert found == {"distinct_codes": 5, "colliding_items": 5, "colliding_fraction": 5 / 8, "largest_group": 3}
    first, second = quality.digit_usage(codes_IK, 4)
    assert first == {"used": 3, "entropy": pytest.approx(-(5 / 8 * np.log2(5 / 8) + 1 / 8 * np.log2(1 / 8) - 1 / 2))}
    assert second["used"] == 3


def test_collisions_agree_with_counting() -> None:
    codes_IK = np.random.default_rng(0).integers(4, size=(500, 4), dtype=np.uint16)
    groups = Counter(map(tuple, codes_IK.tolist()))
    found = quality.collisions(codes_IK)
    assert found["distinct_codes"] == len(groups) and found["largest_group"] == max(groups.values())
    assert found["colliding_items"] == sum(size for size in groups.values() if size > 1)


@pytest.mark.parametrize("as_codes", [False, True])
def test_nearest_in_chunks_equals_the_full_matrix(monkeypatch: pytest.MonkeyPatch, as_codes: bool) -> None:
    generator = np.random.default_rng(0)
    if as_codes:
        all_IP = np.array([[k < i for k in range(40)] for i in range(40)], dtype=np.uint16)
        score_II = (all_IP[:, None] == all_IP[None]).sum(axis=2).astype(float)
    else:
        all_IP = generator.normal(size=(40, 6)).astype(np.float32)
        score_II = (all_IP @ all_IP.T).astype(float)
    np.fill_diagonal(score_II, -np.inf)
    monkeypatch.setattr(quality, "CHUNK_PAIRS", 100)
    rows = np.array([0, 3, 21, 22, 39])
    near_NM = quality.nearest(rows, all_IP)
    for row, near in zip(rows, near_NM, strict=True):
        best = np.sort(score_II[row])[::-1][:10]
        assert np.array_equal(np.sort(score_II[row][near])[::-1], best) and row not in near


def test_perfect_codes_keep_all_neighbours_and_random_ones_few() -> None:
    vec_ID = cloud(400, 8)
    unit_ID = quality.unit(vec_ID)
    rows = quality.neighbour_sample(400, seed=0)
    text_NM = quality.nearest(rows, unit_ID)
    assert quality.kept(text_NM, quality.nearest(rows, unit_ID)) == 1
    random_IK = np.random.default_rng(0).integers(50, size=(400, 8), dtype=np.uint16)
    assert quality.kept(text_NM, quality.nearest(rows, random_IK)) < 0.1
    assert len(quality.neighbour_sample(10_000_000, seed=0)) == 100


# ---- the command ---------------------------------------------------------------------------------

COLOURS = ["red", "blue", "green", "black", "white", "golden"]
THINGS = ["camera", "lens", "tripod", "bag", "lipstick", "polish", "brush", "soap", "lamp", "chair"]


def shop(ws: Workspace, items: int = 120, first: int = 0, dataset: str = "shop") -> Artifact:
    """A data artifact with items and histories. Item 5 has no text; the last four are never trained on."""
    generator = np.random.default_rng(first)
    texts = [
        " ".join(
            [generator.choice(COLOURS), generator.choice(THINGS), *(f"w{n}" for n in generator.integers(60, size=6))]
        )
        for _ in range(items)
    ]
    texts[4] = ""
    table = {
        "item": np.arange(1, items + 1),
        "raw_id": [f"R{first + row}" for row in range(items)],
        "title": texts,
        "text": texts,
        "attributes": [[] for _ in range(items)],
        "train_count": [0 if row >= items - 4 else 3 for row in range(items)],
    }
    plan = Plan(dataset, "data", "tiny", 1, {"preprocess": {"items": items, "first": first}})
    with ws.build(plan) as draft:
        columns = {name: pa.array(table[name], ITEMS.field(name).type) for name in ITEMS.names}
        write_table(pa.table(columns), draft.path / "items.parquet", ITEMS)
        (draft.path / "histories").mkdir()  # users of four training items, which measure what the codes predict
        user_U = np.array([(4 * user, 4, 4, -1, -1) for user in range(40)], dtype=USER)
        np.save(draft.path / "histories" / "users.npy", user_U)
        np.save(draft.path / "histories" / "items.npy", generator.integers(1, items - 3, 160, dtype="uint32"))
    return ws.find(dataset, "data", plan.name)


def genrec(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``genrec tokenize``."""
    with pytest.raises(SystemExit) as left:
        main(["tokenize", "--root", str(root), *words])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out.strip(), captured.err


def codes_of(path: str | Path, digits: int) -> np.ndarray:
    column = read_table(Path(path) / "codes.parquet", codes_schema(digits))["codes"].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, digits)


SMALL = ["--codebooks", "8", "--codewords", "16", "--pca", "32"]


def test_command_makes_both_artifacts_and_is_then_up_to_date(tmp_path: Path, capsys, monkeypatch) -> None:
    shop(Workspace(tmp_path))
    monkeypatch.setenv("GENREC_ENCODER", "lsa")
    code, out, err = genrec(capsys, tmp_path, *SMALL, "--dry-run")
    assert code == 0 and "vectors/lsa-" in err and "would be made first" in err
    assert not (tmp_path / "shop" / "vectors").exists() and not (tmp_path / "shop" / "codes").exists()

    code, made, err = genrec(capsys, tmp_path, *SMALL)
    assert code == 0 and made == out and Path(made).name.startswith("opq8x16-lsa-")
    assert "distinct codes" in err and "7-8" in err and "1 of 120 items have no usable text" in err
    ws = Workspace(tmp_path)
    codes = ws.find("shop", "codes")
    assert codes.config["tokenizer"]["codebooks"] == 8 and codes.config["tokenizer"]["codewords"] == 16
    assert codes.config["encoder"]["name"] == "lsa" and set(codes.manifest["inputs"]) == {"data", "vectors"}
    table = pq.read_table(codes.path / "codes.parquet")
    assert table.schema.equals(codes_schema(8)) and table["item"].to_pylist() == list(range(1, 121))
    stored = json.loads((codes.path / "quality.json").read_text())
    assert stored["items"] == 120 and len(stored["digits"]) == 8 and 0 < stored["reconstruction_error"] < 1
    assert stored["neighbours_kept_by_decoded"] > 0.3

    before = (codes.path / "manifest.json").stat().st_mtime_ns
    code, again, err = genrec(capsys, tmp_path, *SMALL)
    assert (code, again) == (0, made) and "up to date" in err
    assert (codes.path / "manifest.json").stat().st_mtime_ns == before
    code, out, _ = genrec(capsys, tmp_path, *SMALL, "--force", "--json")
    assert json.loads(out)["digest"] == codes.digest, "the same recipe gives the same bits"


def test_command_shares_the_vectors_between_tokenizers(tmp_path: Path, capsys) -> None:
    shop(Workspace(tmp_path))
    for words in (SMALL, [*SMALL, "--seed", "1"], ["--tokenizer", "random", "--codebooks", "7", "--codewords", "9"]):
        assert genrec(capsys, tmp_path, "--encoder", "lsa", *words)[0] == 0
    ws = Workspace(tmp_path)
    assert len(ws.all("shop", "vectors")) == 1 and len(ws.all("shop", "codes")) == 3
    random = ws.find("shop", "codes", "random7x9-lsa")
    assert codes_of(random.path, 7).max() < 9
    assert json.loads((random.path / "quality.json").read_text())["reconstruction_error"] is None


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--encoder", "lsa", "--codebooks", "7", "--codewords", "9", "--pca", "32"], 2, "nearest that does: 8"),
        (["--encoder", "lsa"], 2, "116 training items: 2 to 116 do"),
        (["--encoder", "lsa", *SMALL, "--set", "tokenizer.nitre=3"], 3, "Did you mean 'niter'"),
        (["--encoder", "lsa", *SMALL, "--set", "encoder.model=x/y", "--set", "encoder.dims=8"], 3, "encoder.dims"),
        (["--encoder", "lsa", *SMALL, "--tokenizer", "opqq"], 2, "Did you mean 'opq'"),
        (["--encoder", "lsa", *SMALL, "--tokenizer", "random"], 3, "tokenizer.pca: there is no such key"),
        (["--encoder", "absent.npy", *SMALL], 2, "There is no file absent.npy"),
        (["--encoder", "lsa", *SMALL, "--data", "other"], 4, "No data 'other'"),
    ],
)
def test_command_refuses(tmp_path: Path, capsys, words: list[str], code: int, message: str) -> None:
    shop(Workspace(tmp_path))
    found, out, err = genrec(capsys, tmp_path, *words)
    assert (found, out) == (code, "") and message in err
    assert not Workspace(tmp_path).all("shop", "codes")


@pytest.mark.parametrize("name", ["opq", "pq", "rkmeans", "rqvae", "random", "text"])
@pytest.mark.parametrize("digits", ["0", "257", str(10**9), str(10**30)])
def test_a_number_of_digits_that_no_memory_holds_is_refused(tmp_path: Path, capsys, name: str, digits: str) -> None:
    shop(Workspace(tmp_path))
    encoder = [] if name == "text" else ["--encoder", "lsa"]
    setting = ["--set", f"tokenizer.codebooks={digits}"]
    code, out, err = genrec(capsys, tmp_path, "--tokenizer", name, *encoder, *setting, "--codewords", "16")
    assert (code, out) == (3, "") and "tokenizer.codebooks" in err and "Traceback" not in err


@pytest.mark.parametrize("kind", ["long name", "long part", "FIFO", "FIFO.npy", "no such user", "device.parquet"])
def test_an_encoder_that_is_no_file_and_no_folder(tmp_path: Path, capsys, monkeypatch, kind: str) -> None:
    shop(Workspace(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.mkfifo(tmp_path / "pipe"), os.mkfifo(tmp_path / "pipe.npy"), (tmp_path / "d.parquet").symlink_to("/dev/zero")
    encoder = {
        "long name": "x" * 300,
        "long part": f"{tmp_path}/{'x' * 300}/model",
        "FIFO": str(tmp_path / "pipe"),
        "FIFO.npy": str(tmp_path / "pipe.npy"),
        "no such user": "~nobody-of-this-name/model",
        "device.parquet": str(tmp_path / "d.parquet"),
    }[kind]
    code, out, err = genrec(capsys, tmp_path, "--encoder", encoder, *SMALL)
    assert (code, out) == (2, "") and "Traceback" not in err, err
    assert not any((tmp_path / "shop").glob("vectors/[!.]*"))


def test_vectors_that_are_not_finite_are_refused_by_name(tmp_path: Path, capsys) -> None:
    shop(Workspace(tmp_path))
    vec_ID = cloud(120, 16)
    vec_ID[[3, 70], 2] = np.nan
    np.save(tmp_path / "own.npy", vec_ID)
    code, _, err = genrec(capsys, tmp_path, "--encoder", str(tmp_path / "own.npy"), *SMALL)
    assert code == 3 and "2 of 120 items have a vector that is not finite: R3, R70" in err


def test_codebook_from_gives_new_items_the_old_codes(tmp_path: Path, capsys) -> None:
    ws = Workspace(tmp_path)
    old, new = shop(ws), shop(ws, items=130, first=0, dataset="later")
    vec_ID = cloud(130, 24)
    np.save(tmp_path / "old.npy", vec_ID[:120])
    np.save(tmp_path / "new.npy", vec_ID)
    small = ["--codebooks", "4", "--codewords", "8", "--pca", "16"]
    made = genrec(capsys, tmp_path, "--dataset", "shop", "--encoder", str(tmp_path / "old.npy"), *small)[1]
    frozen = ["--dataset", "later", "--encoder", str(tmp_path / "new.npy"), "--codebook-from", made]
    code, out, err = genrec(capsys, tmp_path, *frozen)
    assert code == 0, err
    assert np.array_equal(codes_of(out, 4)[:120], codes_of(made, 4)) and len(codes_of(out, 4)) == 130
    artifact = Workspace(tmp_path).find("later", "codes")
    assert artifact.manifest["inputs"]["codebook"]["key"] == ws.find("shop", "codes").key
    assert artifact.manifest["inputs"]["data"]["key"] == new.key != old.key
    assert artifact.config["tokenizer"]["codewords"] == 8

    code, _, err = genrec(capsys, tmp_path, *frozen[:2], *frozen[4:])
    again = f"--data {new.path.name} --codebook-from {Path(made.strip()).name} --encoder FILE.parquet"
    assert code == 2 and f"try: genrec tokenize {again} " in err, "the path of the old vectors is not recorded"
    code, _, err = genrec(capsys, tmp_path, *frozen, "--codewords", "16")
    assert code == 2 and "tokenizer.codewords is 16" in err
    code, _, err = genrec(capsys, tmp_path, *frozen, "--encoder", "lsa")
    assert code == 2 and "another encoder" in err


def test_codebook_from_takes_vectors_of_the_same_making_alone(tmp_path: Path, capsys, monkeypatch) -> None:
    ws = Workspace(tmp_path)
    shop(ws), shop(ws, items=130, dataset="later"), shop(ws, first=500, dataset="strange")
    vec_ID = cloud(130, 24)
    files = {"old": vec_ID[:120], "wide": np.ones((130, 25)), "other": cloud(130, 24, seed=9)}
    files |= {"rounded": vec_ID * 1.0001, "moved": vec_ID + 2 * (np.arange(130) == 7)[:, None]}
    for name, rows in files.items():
        np.save(tmp_path / f"{name}.npy", rows)

    def tokenize(dataset: str, name: str, *words: str) -> tuple[int, str, str]:
        return genrec(capsys, tmp_path, "--dataset", dataset, "--encoder", str(tmp_path / f"{name}.npy"), *words)

    made = tokenize("shop", "old", "--codebooks", "4", "--codewords", "8", "--pca", "16")[1]
    for name, message in (("other", "120 of 120 items"), ("wide", "24 wide, not 25"), ("moved", "1 of 120 items")):
        code, _, err = tokenize("later", name, "--codebook-from", made)
        assert code == 2 and message in err and ("R7." in err) == (name == "moved")
    assert tokenize("later", "rounded", "--codebook-from", made)[0] == 0
    code, _, err = tokenize("strange", "old", "--codebook-from", made)
    assert code == 0 and "cannot be compared" in err

    def from_a_hub(self: VectorsEncoder, *given: object) -> np.ndarray:
        self.facts = {"revision": f"commit{len(given[0])}"}
        return encode(self, *given)

    encode = VectorsEncoder.encode
    monkeypatch.setattr(VectorsEncoder, "encode", from_a_hub)
    np.save(tmp_path / "new.npy", vec_ID)
    shutil.rmtree(tmp_path / "shop" / "vectors")
    made = tokenize("shop", "old", "--codebooks", "4", "--codewords", "8", "--pca", "16", "--force")[1]
    code, _, err = tokenize("later", "new", "--codebook-from", made)
    assert code == 2 and "commit commit120, not commit130" in err and "encoder.revision=commit120" in err


def test_codebook_from_needs_a_codebook_and_a_frozen_encoder(tmp_path: Path, capsys) -> None:
    ws = Workspace(tmp_path)
    shop(ws)
    shop(ws, first=500, dataset="later")
    lsa = ["--encoder", "lsa", "--codebooks", "4", "--codewords", "8"]
    opq = genrec(capsys, tmp_path, "--dataset", "shop", *lsa, "--pca", "16")[1]
    random = genrec(capsys, tmp_path, "--dataset", "shop", *lsa, "--tokenizer", "random")[1]
    for source, message in ((opq, "fitted on one data artifact"), (random, "no codebook to use again")):
        code, _, err = genrec(capsys, tmp_path, "--dataset", "later", "--codebook-from", source)
        assert code == 2 and message in err
