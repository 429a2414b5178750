"""What every tokenizer of vectors must do, by its line in the registry; then residual codes and RQ-VAE by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from genrec_cli import registry
from genrec_cli.config import validate
from genrec_cli.errors import DataError, DivergedError, UsageError
from genrec_cli.tokenizers import quality, rqvae
from genrec_cli.tokenizers.information import mutual_information
from genrec_cli.tokenizers.kmeans import kmeans, squared_distances
from genrec_cli.tokenizers.opq import OpqTokenizer
from genrec_cli.tokenizers.pca import Pca
from genrec_cli.tokenizers.pq import PqConfig, PqTokenizer, smallest_sums
from genrec_cli.tokenizers.rkmeans import RkmeansConfig, RkmeansTokenizer, residual_kmeans
from genrec_cli.tokenizers.rqvae import RqvaeConfig, RqvaeTokenizer

READERS = [name for name in registry.names("tokenizer") if "vectors" in registry.load("tokenizer", name).needs]
CODEBOOKS = [name for name in READERS if name != "random"]
QUICK = {
    "opq": {"niter": 3, "niter_pq_0": 4},
    "rqvae": {"hidden": [16], "latent": 4, "epochs": 8, "batch_size": 32, "lr": 0.01},
}
"""Settings under which fitting takes a moment."""

every = pytest.mark.parametrize("name", READERS)
learned = pytest.mark.parametrize("name", CODEBOOKS)


def cloud(items: int = 200, width: int = 16, seed: int = 0) -> np.ndarray:
    """Vectors in loose groups."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(2, items // 10), width))
    rows = centres[random.integers(len(centres), size=items)] + 0.4 * random.normal(size=(items, width))
    return rows.astype(np.float32)


def build(name: str, vec_ID: np.ndarray, train_I: np.ndarray | None = None, **options: object):
    kind = registry.load("tokenizer", name)
    pca = {} if name == "random" else {"pca": 8}
    settings = {"codebooks": 4, "codewords": 10} | pca | QUICK.get(name, {}) | options
    tokenizer = kind(validate(kind.Config, "tokenizer", settings))
    tokenizer.fit(vec_ID, np.ones(len(vec_ID), dtype=bool) if train_I is None else train_I)
    return tokenizer


# ---- contracts -----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("digits", [1, 4, 8])
@pytest.mark.parametrize("codewords", [2, 10, 64])
def test_gives_k_codes_below_v_to_every_item(name: str, digits: int, codewords: int) -> None:
    vec_ID = cloud()
    codes_IK = build(name, vec_ID, codebooks=digits, codewords=codewords).codes(vec_ID)
    assert codes_IK.dtype == np.uint16 and codes_IK.shape == (200, digits) and codes_IK.max() < codewords


@learned
def test_a_saved_one_gives_the_same_codes_and_holds_nothing_to_execute(name: str, tmp_path: Path) -> None:
    vec_ID = cloud()
    tokenizer = build(name, vec_ID)
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["codebook.safetensors"]
    loaded = registry.load("tokenizer", name).load(tmp_path)
    codes_IK = tokenizer.codes(vec_ID)
    assert np.array_equal(loaded.codes(vec_ID), codes_IK)
    assert (loaded.config.codebooks, loaded.config.codewords) == (4, 10)
    assert np.array_equal(loaded.decode(codes_IK), tokenizer.decode(codes_IK))


@every
def test_the_seed_decides(name: str) -> None:
    vec_ID = cloud()
    first, again, other = (build(name, vec_ID, seed=seed).codes(vec_ID) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@learned
def test_only_training_items_decide(name: str) -> None:
    vec_ID = cloud()
    train_I = np.arange(200) < 150
    other_ID = np.where(train_I[:, None], vec_ID, vec_ID * 9)
    first, second = build(name, vec_ID, train_I), build(name, other_ID, train_I)
    assert np.array_equal(first.centroids_KVS, second.centroids_KVS)
    assert np.array_equal(first.codes(vec_ID), second.codes(vec_ID))


@learned
def test_the_codes_of_an_item_do_not_depend_on_its_neighbours(name: str) -> None:
    vec_ID = cloud()
    tokenizer = build(name, vec_ID)
    assert np.array_equal(tokenizer.codes(vec_ID)[37:91], tokenizer.codes(vec_ID[37:91]))


@learned
def test_codes_stand_for_something_near(name: str) -> None:
    vec_ID = cloud()
    tokenizer = build(name, vec_ID, codewords=32, **({"epochs": 60} if name == "rqvae" else {}))
    reduced_IP = tokenizer.reduced(vec_ID)
    decoded_IP = tokenizer.decode(tokenizer.codes(vec_ID))
    assert decoded_IP.shape == reduced_IP.shape
    assert quality.relative_error(reduced_IP, decoded_IP) < 0.6


@every
def test_nearest_lists_all_codes_in_the_end_each_once_and_in_order(name: str) -> None:
    vec_ID = cloud()
    tokenizer = build(name, vec_ID, codebooks=2, codewords=5)
    codes_IK = tokenizer.codes(vec_ID)
    for many in (1, 7, 25, 99):
        near_NMK, cost_NM = tokenizer.nearest(vec_ID[:30], codes_IK[:30], many)
        assert near_NMK.shape == (30, min(many, 25), 2) and (np.diff(cost_NM, axis=1) >= 0).all()
        for near_MK in near_NMK:
            assert len({tuple(code) for code in near_MK.tolist()}) == min(many, 25)
    if name != "rqvae":  # its decoder does not keep distances
        assert cost_NM[:, 0].max() < cost_NM[:, -1].min()


@learned
@pytest.mark.parametrize("codewords", [1, 201, 5000])
def test_v_has_limits(name: str, codewords: int) -> None:
    with pytest.raises(UsageError, match="2 to 200 do"):
        build(name, cloud(), codewords=codewords)


@learned
def test_a_codebook_file_is_not_trusted(name: str, tmp_path: Path) -> None:
    kind, file = registry.load("tokenizer", name), tmp_path / "codebook.safetensors"
    file.write_bytes(b"\xff" * 40)
    with pytest.raises(DataError, match="cannot be read"):
        kind.load(tmp_path)
    build(name, cloud()).save(tmp_path)
    tensors = load_file(file)
    for tensor in tensors:
        rest = {other: value for other, value in tensors.items() if other != tensor}
        wrong = {
            "is not a": [rest, {**rest, f"{tensor}x": tensors[tensor]}, {**tensors, "code": np.ones(1, np.float32)}],
            "finite float32": [
                {**rest, tensor: tensors[tensor] * np.float32("nan")},
                {**rest, tensor: tensors[tensor].astype(np.float64)},
            ],
            "do not fit together": [
                {**rest, tensor: tensors[tensor][..., :-1].copy()},
                {**rest, tensor: tensors[tensor][None]},
                {**rest, tensor: tensors[tensor][:0]},
            ],
        }
        for message, variants in wrong.items():
            for variant in variants:
                save_file(variant, file)
                with pytest.raises(DataError, match=message):
                    kind.load(tmp_path)


def test_one_codebook_is_not_taken_for_another(tmp_path: Path) -> None:
    for name in CODEBOOKS:
        build(name, cloud()).save(tmp_path)
        for other in CODEBOOKS:
            if other != name:
                with pytest.raises(DataError, match=r"is not|do not fit"):
                    registry.load("tokenizer", other).load(tmp_path)


@pytest.mark.parametrize("name", ["pq", "rkmeans", "rqvae"])
def test_threads_do_not_matter(name: str) -> None:
    quick = QUICK.get(name, {}) | ({"epochs": 2, "batch_size": 500} if name == "rqvae" else {})
    script = (
        "import hashlib, numpy as np; from genrec_cli import registry\n"
        f"kind = registry.load('tokenizer', {name!r}); quick = {quick!r}\n"
        "vec = np.random.default_rng(0).normal(size=(3000, 48)).astype('f4')\n"
        "t = kind(kind.Config(codebooks=4, codewords=32, pca=32, **quick)); t.fit(vec, np.ones(3000, bool))\n"
        "print(hashlib.md5(t.codes(vec).tobytes() + t.centroids_KVS.tobytes()).hexdigest())"
    )
    outputs = []
    for threads in ("1", "3"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        words = [sys.executable, "-c", script]
        outputs.append(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)
    assert outputs[0] == outputs[1]


def test_torch_is_imported_by_rqvae_alone() -> None:
    script = (
        "import sys; from genrec_cli import registry\n"
        f"[registry.load('tokenizer', name) for name in {READERS!r}]; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


# ---- product codes -------------------------------------------------------------------------------


def test_pq_is_k_means_in_each_stretch_and_opq_without_its_rotation() -> None:
    vec_ID = cloud()
    tokenizer = build("pq", vec_ID)
    reduced_IP = Pca.fit(vec_ID, 8).transform(vec_ID)
    for k in range(4):
        sub_IS = reduced_IP[:, 2 * k : 2 * k + 2]
        centroid_VS = kmeans(sub_IS, 10, 1234)
        assert np.array_equal(tokenizer.centroids_KVS[k], centroid_VS)
        slow_I = np.square(sub_IS[:, None] - centroid_VS).sum(2).argmin(1)
        assert np.array_equal(tokenizer.codes(vec_ID)[:, k], slow_I)
    still = OpqTokenizer(OpqTokenizer.Config(codebooks=4, codewords=10, pca=8))
    still.pca, still.centroids_KVS = tokenizer.pca, tokenizer.centroids_KVS
    still.rotation_PP, still.coarse_P = np.eye(8, dtype=np.float32), np.zeros(8, dtype=np.float32)
    assert np.array_equal(still.codes(vec_ID), tokenizer.codes(vec_ID))
    with pytest.raises(UsageError, match="nearest that does: 4"):
        PqTokenizer(PqConfig(codebooks=5, codewords=4, pca=8)).fit(vec_ID, np.ones(200, dtype=bool))


@pytest.mark.parametrize("many", [1, 5, 40, 500])
def test_smallest_sums_equal_trying_all(many: int) -> None:
    cost_KNV = np.random.default_rng(0).random((4, 6, 5))
    codes_NMK, cost_NM = smallest_sums(iter(cost_KNV), many)
    every_CK = np.array(list(np.ndindex(5, 5, 5, 5)))
    for n in range(6):
        all_C = sum(cost_KNV[k, n, every_CK[:, k]] for k in range(4))
        best = np.argsort(all_C)[:many]
        np.testing.assert_allclose(cost_NM[n], all_C[best])
        assert np.array_equal(codes_NMK[n], every_CK[best])


# ---- residual codes ------------------------------------------------------------------------------


def by_hand() -> RkmeansTokenizer:
    """Two levels of two codewords in the plane, the PCA being the identity."""
    tokenizer = RkmeansTokenizer(RkmeansConfig(codebooks=2, codewords=2, pca=2))
    one = np.ones(2, dtype=np.float32)
    tokenizer.pca = Pca(0 * one, np.eye(2, dtype=np.float32), one)
    tokenizer.centroids_KVS = np.array([[[0, 0], [10, 0]], [[0, 2], [1, -1]]], dtype=np.float32)
    return tokenizer


def test_residual_codes_computed_by_hand() -> None:
    tokenizer = by_hand()
    # (9, 0): nearer to (10, 0), leaves (-1, 0), whose distances are 1 + 4 and 4 + 1: the first of equals
    vec_ID = np.array([[0, 3], [2, -2], [9, 0], [11, -1], [4, 9]], dtype=np.float32)
    assert tokenizer.codes(vec_ID).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]]
    assert tokenizer.decode(tokenizer.codes(vec_ID)).tolist() == [[0, 2], [1, -1], [10, 2], [11, -1], [0, 2]]
    near_NMK, cost_NM = tokenizer.nearest(vec_ID[:1], None, 4)
    assert near_NMK[0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and cost_NM[0].tolist() == [1, 17, 101, 137]


def test_residual_k_means_is_k_means_of_what_is_left() -> None:
    x_NS = cloud(300, 6)
    centroids_KVS = residual_kmeans(x_NS, 3, 12, 1234)
    rest_NS = x_NS.copy()
    errors = []
    for k in range(3):
        assert np.array_equal(centroids_KVS[k], kmeans(rest_NS, 12, 1234))
        rest_NS = np.stack(
            [row - min(centroids_KVS[k], key=lambda c, row=row: np.square(row - c).sum()) for row in rest_NS]
        )
        errors.append(np.square(rest_NS).sum())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", ["rkmeans", "rqvae"])
def test_fitting_in_small_runs_of_items_gives_the_same_codebook(name: str, monkeypatch) -> None:
    vec_ID = cloud(300)
    whole = build(name, vec_ID)
    asked: list[int] = []

    def watched(x_NS: np.ndarray, centroid_VS: np.ndarray) -> np.ndarray:
        asked.append(len(x_NS) * len(centroid_VS))
        return squared_distances(x_NS, centroid_VS)

    def quantised(z_NS: torch.Tensor, centroids_KVS: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked.append(len(z_NS) * len(centroids_KVS[0]))
        return quantise(z_NS, centroids_KVS)

    quantise = rqvae.quantise
    monkeypatch.setattr("genrec_cli.tokenizers.rkmeans.squared_distances", watched)
    monkeypatch.setattr(rqvae, "quantise", quantised)
    monkeypatch.setattr("genrec_cli.tokenizers.residual.CELLS", 400)
    monkeypatch.setattr(rqvae, "CHUNK", 40)
    pieces = build(name, vec_ID)
    assert max(asked) <= 400 and sum(asked) >= 4 * 300 * 10
    for part, tensor in whole.tensors().items():
        assert np.array_equal(tensor, pieces.tensors()[part])
    assert np.array_equal(whole.centroids_KVS, pieces.centroids_KVS)


def test_the_beam_is_exact_once_it_holds_all_codes() -> None:
    vec_ID = cloud()
    tokenizer = build("rkmeans", vec_ID, codebooks=3, codewords=4)
    reduced_IP = tokenizer.reduced(vec_ID[:20])
    every_CK = np.array(list(np.ndindex(4, 4, 4)), dtype=np.uint16)
    all_NC = squared_distances(reduced_IP, tokenizer.reconstruct(every_CK))
    cost_NM = tokenizer.nearest(vec_ID[:20], None, 64)[1]
    np.testing.assert_allclose(cost_NM, np.sort(all_NC, axis=1), atol=1e-5)
    narrow_NM = tokenizer.nearest(vec_ID[:20], None, 8)[1]
    assert (narrow_NM >= cost_NM[:, :8] - 1e-9).all() and np.allclose(narrow_NM[:, 0], cost_NM[:, 0], rtol=0.3)


# ---- RQ-VAE --------------------------------------------------------------------------------------


def test_the_gradient_passes_straight_through_and_the_losses_are_those_of_the_paper(monkeypatch) -> None:
    """One step against the same loss written out level by level."""
    random = torch.Generator().manual_seed(0)
    x_NP = torch.randn(12, 6, generator=random)
    config = RqvaeConfig(codebooks=2, codewords=3, epochs=1, batch_size=12, lr=1e-3, commitment=0.3)
    encoder, decoder = rqvae.network([6, 5, 2], random), rqvae.network([2, 5, 6], random)
    centroids = torch.nn.Parameter(torch.randn(2, 3, 2, generator=random))
    seen = {}
    step = torch.optim.AdamW.step

    def keep(optimizer, *args, **more):
        seen["grad"] = [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
        return step(optimizer, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    before = [p.detach().clone().requires_grad_() for p in (*encoder.parameters(), *decoder.parameters(), centroids)]
    rqvae.train(config, x_NP, encoder, decoder, centroids, torch.Generator().manual_seed(1))

    w1, b1, w2, b2, v1, c1, v2, c2, codebook = before
    total = 0.0
    for x in x_NP:
        z = w2 @ torch.relu(w1 @ x + b1) + b2
        rest, summed, pull, commit = z, 0.0, 0.0, 0.0
        for level in codebook:
            e = min(level, key=lambda c, rest=rest: ((rest - c) ** 2).sum().item())
            pull = pull + ((rest.detach() - e) ** 2).sum()
            commit = commit + ((rest - e.detach()) ** 2).sum()
            rest, summed = rest - e, summed + e
        straight = z + (summed - z).detach()
        total = total + ((v2 @ torch.relu(v1 @ straight + c1) + c2 - x) ** 2).sum() + pull + 0.3 * commit
    (total / 12).backward()
    for found, parameter in zip(seen["grad"], before, strict=True):
        torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-4)


def test_dead_codewords_start_again_at_residuals_of_items() -> None:
    random = torch.Generator().manual_seed(0)
    x_NP = torch.randn(50, 3, generator=random)
    centroids = torch.nn.Parameter(torch.randn(2, 4, 3, generator=random))
    far = torch.tensor([[False, True, False, True], [True, False, False, False]])
    with torch.no_grad():
        centroids[far] = 1e6
    before = centroids.detach().clone()
    encoder = torch.nn.Identity()
    rqvae.revive(centroids, far, encoder, x_NP, random)
    assert torch.equal(centroids[~far], before[~far]) and (centroids.abs() < 100).all()
    assert all((x_NP == revived).all(1).any() for revived in centroids[0][far[0]])
    _, rest_KNS, _ = rqvae.quantise(x_NP, centroids)
    assert (rest_KNS[1] == centroids[1, 0]).all(1).any(), "the residual after the first level as it is now"
    unchanged = centroids.detach().clone()
    rqvae.revive(centroids, torch.zeros_like(far), encoder, x_NP, random)
    assert torch.equal(centroids, unchanged)


def test_rqvae_revives_while_it_trains_and_then_uses_its_codewords(monkeypatch) -> None:
    vec_ID = cloud(600)
    options = {"codewords": 40, "hidden": [32], "latent": 8, "epochs": 40, "batch_size": 64, "lr": 3e-3}
    dead = build("rqvae", vec_ID, **options)
    used = [digit["used"] for digit in quality.digit_usage(dead.codes(vec_ID), 40)]
    assert min(used) >= 36, used
    assert dead.history[-1]["reconstruction"] < 0.5 * dead.history[0]["reconstruction"]
    assert {"reconstruction", "quantisation", "dead"} == set(dead.history[0])
    calls = []
    monkeypatch.setattr(rqvae, "revive", lambda *a: calls.append(a))
    build("rqvae", vec_ID, **(options | {"epochs": 10}))
    assert len(calls) == 7, "after epochs 1 to 7: the last fifth settles"


def test_the_float64_networks_agree_with_the_trained_ones() -> None:
    random = torch.Generator().manual_seed(0)
    encoder = rqvae.network([7, 9, 5, 3], random)
    x_NP = torch.randn(40, 7, generator=random)
    expected = encoder(x_NP).detach().numpy()
    tokenizer = RqvaeTokenizer(RqvaeConfig())
    tokenizer.encoder = encoder.double()
    np.testing.assert_allclose(tokenizer.encode(x_NP.numpy()), expected, atol=1e-5)


def test_sizes_of_rqvae_survive_the_file(tmp_path: Path) -> None:
    for hidden in ([], [12], [12, 6, 9]):
        tokenizer = build("rqvae", cloud(), hidden=hidden, latent=5, epochs=1)
        tokenizer.save(tmp_path)
        assert {"encoder.0.weight", "decoder.0.bias"} < set(load_file(tmp_path / "codebook.safetensors"))
        loaded = RqvaeTokenizer.load(tmp_path)
        assert [len(layer.bias) for layer in loaded.encoder if hasattr(layer, "bias")] == [*hidden, 5]
        for name, tensor in tokenizer.tensors().items():
            assert np.array_equal(loaded.tensors()[name], tensor)


# ---- mutual information --------------------------------------------------------------------------


def test_mutual_information_of_codes_written_by_hand() -> None:
    a = np.array([0, 0, 0, 0, 1, 1, 1, 1] * 50)
    b = np.array([0, 0, 1, 1, 0, 0, 1, 1] * 50)
    same, apart = np.column_stack([a, 1 - a]), np.column_stack([a, b])
    assert mutual_information(same, 2, seed=0)["mutual_information"] == pytest.approx(1)
    assert mutual_information(apart, 2, seed=0)["mutual_information"] == pytest.approx(0, abs=1e-12)
    three = mutual_information(np.column_stack([a, 1 - a, b]), 2, seed=0)
    assert three["mutual_information"] == pytest.approx(1 / 3)
    assert mutual_information(a[:, None], 2, seed=0)["mutual_information"] is None
    assert mutual_information(0 * same, 2, seed=0)["mutual_information"] == 0


def test_mutual_information_agrees_with_scikit_learn_however_it_counts(monkeypatch) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    a = random.integers(9, size=400)
    codes_IK = np.column_stack([a, np.where(random.random(400) < 0.5, a, random.integers(9, size=400))])
    theirs = metrics.normalized_mutual_info_score(*codes_IK.T)
    assert mutual_information(codes_IK, 9, seed=0)["mutual_information"] == pytest.approx(theirs)
    monkeypatch.setattr("genrec_cli.tokenizers.information.DENSE", 1)
    assert mutual_information(codes_IK, 9, seed=0)["mutual_information"] == pytest.approx(theirs)


def test_independent_digits_seem_to_share_much_and_chance_says_so() -> None:
    codes_IK = np.random.default_rng(1).integers(64, size=(1000, 4), dtype=np.uint16)
    found = mutual_information(codes_IK, 64, seed=0)
    assert found["mutual_information"] > 0.3 and abs(found["mutual_information_adjusted"]) < 0.02


def test_no_tokenizer_loops_over_items() -> None:
    """Four times the items must not take many more Python calls."""
    counts = []
    for items in (500, 2000):
        vec_ID = cloud(items)
        tokenizer = build("rkmeans", vec_ID)
        calls = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        tokenizer.codes(vec_ID)
        sys.setprofile(None)
        counts.append(calls)
    assert counts[1] < 1.5 * counts[0]


def test_a_learning_rate_that_is_too_high_is_reported() -> None:
    vec_ID = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    with pytest.raises(DivergedError, match="reconstruction loss is"):
        build("rqvae", vec_ID, codewords=8, lr=1e30)
