"""RQ-VAE: an encoder, residual quantisation of its output, and a decoder, trained together.

Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER), NeurIPS 2023, section 3.1; the quantiser is
that of Lee et al., CVPR 2022, equations 1 to 4. With z = encoder(x), r_1 = z and e_k the codeword of level k:

    loss = |x - decoder(z + sg[sum_k e_k - z])|^2 + sum_k |sg[r_k] - e_k|^2 + commitment |r_k - sg[e_k]|^2

sg stops the gradient (straight-through estimator). Each level is initialised with k-means of the residuals. Dead
codewords (not used for an epoch) are reset to residuals of random items, except in the last fifth of the epochs.

Dimensions: N items of a batch, P width after PCA, S latent width, K levels, V codewords.

Deviations from TIGER: PCA with whitening comes first, as for the other tokenizers; AdamW with a cosine schedule in
place of Adagrad at .4; 150 epochs in place of 20,000.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec_cli import console
from genrec_cli.config import Count, NonNegative, Positive, Seed
from genrec_cli.errors import DivergedError
from genrec_cli.tokenizers.base import MAX_DIGITS
from genrec_cli.tokenizers.codebook import CodebookConfig
from genrec_cli.tokenizers.kmeans import FAISS_SEED
from genrec_cli.tokenizers.residual import ResidualTokenizer
from genrec_cli.tokenizers.rkmeans import residual_kmeans

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

REVIVE_UNTIL = 0.8
"""Fraction of the epochs after which no codeword is reset."""
CHUNK = 8192
"""Items per forward pass outside of a training step."""


class RqvaeConfig(CodebookConfig):
    """``[tokenizer]`` of rqvae."""

    name: Literal["rqvae"] = "rqvae"
    codebooks: int = Field(4, ge=1, le=MAX_DIGITS)
    """K: levels, usually 3 to 8 (TIGER: 3, and one digit for collisions)."""
    seed: Seed = 0
    """Seed of the weights, the order of the items and all k-means."""
    hidden: tuple[Count, ...] = (512, 256, 128)
    """Widths of the encoder's hidden layers; the decoder has them in reverse (TIGER, section 4)."""
    latent: Count = 32
    """S, the width of the quantised vectors (TIGER)."""
    commitment: NonNegative = 0.25
    """Weight of the commitment loss (TIGER's beta)."""
    epochs: Count = 150
    """Passes over the training items."""
    batch_size: Count = 1024
    """Items per step (TIGER)."""
    lr: Positive = 1e-3
    """Learning rate of AdamW, with a cosine schedule to 0."""


class RqvaeTokenizer(ResidualTokenizer):
    """PCA, encoder, K levels, decoder."""

    Config: ClassVar[type[CodebookConfig]] = RqvaeConfig
    what = "a codebook of RQ-VAE"
    config: RqvaeConfig

    def learn(self, train_NP: np.ndarray) -> None:
        """Train on all training items; ``history`` has the losses of every epoch."""
        import torch

        config = self.config
        with _one_torch_thread():
            random = torch.Generator().manual_seed(config.seed)
            x_NP = torch.from_numpy(train_NP)
            widths = [x_NP.shape[1], *config.hidden, config.latent]
            encoder, decoder = network(widths, random), network(widths[::-1], random)
            first_NS = forward(encoder, x_NP).numpy()
            start_KVS = residual_kmeans(first_NS, config.codebooks, config.codewords, FAISS_SEED + config.seed)
            centroids_KVS = torch.nn.Parameter(torch.from_numpy(start_KVS))
            self.history = train(config, x_NP, encoder, decoder, centroids_KVS, random)
        self.encoder, self.decoder = encoder.double(), decoder.double()
        self.centroids_KVS = centroids_KVS.detach().numpy().copy()

    def encode(self, reduced_IP: np.ndarray) -> np.ndarray:
        """The output of the encoder."""
        return _apply(self.encoder, reduced_IP)

    def decode_space(self, x_IS: np.ndarray) -> np.ndarray:
        """The output of the decoder."""
        return _apply(self.decoder, x_IS)

    @classmethod
    def shapes(cls, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Both networks, as deep as in the file: widths P, h1, h2, ..., S and back."""
        depth = max(1, sum(name.startswith("encoder.") and name.endswith(".bias") for name in names))
        widths = ["P", *(f"h{layer}" for layer in range(1, depth)), "S"]
        shapes: dict[str, Sequence[str]] = {}
        for part, part_widths in (("encoder", widths), ("decoder", widths[::-1])):
            for layer, (inputs, outputs) in enumerate(itertools.pairwise(part_widths)):
                shapes |= {f"{part}.{layer}.weight": (outputs, inputs), f"{part}.{layer}.bias": (outputs,)}
        return shapes

    def tensors(self) -> dict[str, np.ndarray]:
        """Both networks."""
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {f"{p}.{n}": t.float().numpy() for p, net in parts.items() for n, t in net.state_dict().items()}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Both networks."""
        import torch

        layers = range(sum(name.startswith("encoder.") for name in tensors) // 2)
        widths = [tensors["pca.scale"].size, *(tensors[f"encoder.{layer}.bias"].size for layer in layers)]
        self.encoder, self.decoder = network(widths).double(), network(widths[::-1]).double()
        for part, net in (("encoder", self.encoder), ("decoder", self.decoder)):
            net.load_state_dict({name: torch.from_numpy(tensors[f"{part}.{name}"]) for name in net.state_dict()})


def train(
    config: RqvaeConfig,
    x_NP: "Tensor",
    encoder: "nn.Module",
    decoder: "nn.Module",
    centroids_KVS: "nn.Parameter",
    random: "torch.Generator",
) -> list[dict[str, float]]:
    """Train in place. Returns per epoch the reconstruction and quantisation loss and the number of dead codewords."""
    import torch

    parameters = [*encoder.parameters(), *decoder.parameters(), centroids_KVS]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    steps = config.epochs * -(-len(x_NP) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    with console.progress(range(config.epochs), unit="epoch", desc="RQ-VAE") as bar:
        for epoch in bar:
            used_KV = torch.zeros(centroids_KVS.shape[:2], dtype=torch.bool)
            total = {"reconstruction": 0.0, "quantisation": 0.0}
            for rows in torch.randperm(len(x_NP), generator=random).split(config.batch_size):
                z_NS = encoder(x_NP[rows])
                code_NK, rest_KNS, chosen_KNS = quantise(z_NS, centroids_KVS)
                used_KV[torch.arange(len(used_KV)), code_NK] = True
                straight_NS = z_NS + (chosen_KNS.sum(0) - z_NS).detach()
                reconstruction = (decoder(straight_NS) - x_NP[rows]).square().sum()
                pull = (rest_KNS.detach() - chosen_KNS).square().sum()
                commit = (rest_KNS - chosen_KNS.detach()).square().sum()
                loss = (reconstruction + pull + config.commitment * commit) / len(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total["reconstruction"] += float(reconstruction.detach())
                total["quantisation"] += float(pull.detach())
            dead_KV = ~used_KV
            if epoch + 1 < REVIVE_UNTIL * config.epochs:
                revive(centroids_KVS, dead_KV, encoder, x_NP, random)
            history.append({name: value / len(x_NP) for name, value in total.items()} | {"dead": int(dead_KV.sum())})
            if not np.isfinite(history[-1]["reconstruction"]):
                what = f"RQ-VAE's reconstruction loss is {history[-1]['reconstruction']} in epoch {epoch + 1}."
                raise DivergedError(what, hint="Lower the learning rate: --set tokenizer.lr=...")
            bar.set_postfix(loss=f"{history[-1]['reconstruction']:.3g}", dead=history[-1]["dead"])
    return history


def forward(network: "nn.Module", x_NP: "Tensor") -> "Tensor":
    """The network's output for all rows, without gradient, chunk by chunk."""
    import torch

    with torch.no_grad():
        return torch.cat([network(chunk_NP) for chunk_NP in x_NP.split(CHUNK)])


def _apply(network: "nn.Module", row_IH: np.ndarray) -> np.ndarray:
    """Float32 outputs of a float64 network: rounded, a row's result does not depend on the other rows."""
    import torch

    with _one_torch_thread():
        chunks = torch.from_numpy(row_IH).split(CHUNK)
        return torch.cat([forward(network, chunk_NH.double()).float() for chunk_NH in chunks]).numpy()


def quantise(z_NS: "Tensor", centroids_KVS: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
    """``code_NK``; ``rest_KNS``, the input of each level; ``chosen_KNS``, its codewords, with their gradient."""
    import torch

    codes, rests, chosens, rest_NS = [], [], [], z_NS
    for centroid_VS in centroids_KVS:
        with torch.no_grad():
            cost_NV = centroid_VS.square().sum(1) - 2 * rest_NS @ centroid_VS.T
            code_N = cost_NV.argmin(1)
        chosen_NS = centroid_VS[code_N]
        codes.append(code_N)
        rests.append(rest_NS)
        chosens.append(chosen_NS)
        rest_NS = rest_NS - chosen_NS
    return torch.stack(codes, 1), torch.stack(rests), torch.stack(chosens)


def revive(
    centroids_KVS: "Tensor", dead_KV: "Tensor", encoder: "nn.Module", x_NP: "Tensor", random: "torch.Generator"
) -> None:
    """Reset every dead codeword to the residual of a random item, level by level, since a level changes the next."""
    import torch

    if not dead_KV.any():
        return
    with torch.no_grad():
        rest_NS = forward(encoder, x_NP)
        for level, dead_V in enumerate(dead_KV):
            drawn = torch.randperm(len(rest_NS), generator=random)[: int(dead_V.sum())]
            centroids_KVS[level, dead_V.nonzero()[: len(drawn), 0]] = rest_NS[drawn]
            for some_NS in rest_NS.split(CHUNK):
                _, _, chosen_1NS = quantise(some_NS, centroids_KVS[level : level + 1])
                some_NS -= chosen_1NS[0]


def network(widths: Sequence[int], random: "torch.Generator | None" = None) -> "nn.Sequential":
    """Linear layers named 0, 1, ... with ReLU between them; initialised as torch does, drawn from ``random``."""
    from torch import nn

    network = nn.Sequential()
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if layer:
            network.add_module(f"relu{layer}", nn.ReLU())
        linear = nn.Linear(inputs, outputs)
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=random)
        network.add_module(str(layer), linear)
    return network


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread: its thread count is separate from that of :func:`one_thread`."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
