"""OPQ codes at K 16 and 32: ours against FAISS's factory string with its own defaults, in alternating runs.

    python bench/opq.py [--vectors ARTIFACT] [--digits 16 32] [--json]

Both start from the same vectors after PCA, on one thread. Without ``--vectors``, 12,101 random ones that are
correlated as those of texts are.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from comparison import Comparison, alternate, report
from safetensors.numpy import load_file

from genrec_cli.tokenizers.kmeans import one_thread
from genrec_cli.tokenizers.opq import OpqConfig, OpqTokenizer
from genrec_cli.tokenizers.pca import Pca

WIDTH = 128


def vectors(folder: Path | None) -> np.ndarray:
    """``vec_ID`` of an artifact, or made up."""
    if folder is not None:
        (_, vec_ID), *_ = load_file(folder / "vectors.safetensors").items()
        return vec_ID.astype("float32")
    random = np.random.default_rng(0)
    spread = random.standard_normal((384, 384)) * np.linspace(1, 0.05, 384)
    return (random.standard_normal((12_101, 384)) @ spread).astype("float32")


def factory(reduced_IP: np.ndarray, digits: int):
    """FAISS's index of this name, trained and filled."""
    import faiss

    index = faiss.index_factory(reduced_IP.shape[1], f"OPQ{digits},IVF1,PQ{digits}x8np")
    with one_thread():
        index.train(reduced_IP)
        index.add(reduced_IP)
    return index


def errors(reduced_IP: np.ndarray, ours_IP: np.ndarray, index) -> tuple[float, float]:
    """Squared reconstruction error as a share of the squared length: ours, FAISS's."""
    import faiss

    faiss.extract_index_ivf(index).make_direct_map()
    theirs_IP = index.reconstruct_n(0, len(reduced_IP))
    whole = float((reduced_IP**2).sum())
    return float(((reduced_IP - ours_IP) ** 2).sum()) / whole, float(((reduced_IP - theirs_IP) ** 2).sum()) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--digits", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    options = parser.parse_args()
    vec_ID = vectors(options.vectors)
    everything = np.ones(len(vec_ID), dtype=bool)
    reduced_IP = Pca.fit(vec_ID, WIDTH).transform(vec_ID)
    comparisons, error = [], {}
    for digits in options.digits:
        made: dict[str, object] = {}

        def ours(digits: int = digits, made: dict = made) -> None:
            tokenizer = OpqTokenizer(OpqConfig(codebooks=digits, pca=WIDTH))
            tokenizer.fit(vec_ID, everything)
            made["ours"] = tokenizer.decode(tokenizer.codes(vec_ID))

        def theirs(digits: int = digits, made: dict = made) -> None:
            made["faiss"] = factory(reduced_IP, digits)

        times = alternate({"ours": ours, "faiss": theirs}, options.rounds, warm=0)
        what = f"OPQ of {len(vec_ID):,} x {WIDTH}, K {digits}"
        comparisons.append(Comparison.of(what, "FAISS's defaults", times["ours"], times["faiss"]))
        error[digits] = errors(reduced_IP, made["ours"], made["faiss"])
    if options.json:
        print(json.dumps(report(comparisons, errors=error)))
        return
    for line, (own, other) in zip(comparisons, error.values(), strict=True):
        print(line.line(), f" error {own:.4f} and {other:.4f}")


if __name__ == "__main__":
    main()
