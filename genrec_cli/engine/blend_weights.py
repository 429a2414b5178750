"""The temperatures and weights of a blend, chosen on validation users.

1. The floor of a count model is the fraction of the targets to which it gives the score 0; the temperature of a part is
   the one of :data:`TEMPERATURES` with the largest likelihood of the targets.
2. The items that any part lists among its best ``LISTED``, and the target, are the candidates of a user. Their ranks
   under any weights need no further pass over the catalogue.
3. Weights start from those of the largest likelihood (expectation maximisation for mixture weights), the parts alone
   and equal weights; a random search with a seed goes on from the best by NDCG@10.
4. The simplest form is kept: products in place of sums, and weights by bucket, only if the gain is more than
   ``WORTHWHILE``; that of buckets is measured on other users than those that chose the weights.

Legend: U users, B users of a batch, P parts, X candidates of a user, I items, G buckets.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_cli.data.sequences import EvalBatch
from genrec_cli.models.blend import Form, Mixing, Part, mixed, recent

TEMPERATURES = [2.0 ** (step / 2) for step in range(-12, 5)]
LISTED = 50
DRAWS, ROUNDS = 24, 4
"""Random weights per round; each round draws nearer to the best of the round before."""
WORTHWHILE = 0.005
"""Smallest relative gain of NDCG@10 that a less simple form must have."""
BUCKETS = 3


class Candidates(NamedTuple):
    """The candidates of validation users; the target is candidate 0, and repeated candidates have ``real_UX`` false."""

    logp_PUX: Tensor
    real_UX: Tensor
    length_U: Tensor
    count_U: Tensor

    def take(self, chosen_U: Tensor) -> "Candidates":
        return Candidates(self.logp_PUX[:, chosen_U], *(x[chosen_U] for x in self[1:]))


@torch.inference_mode()
def calibrated(part: Part, batches: Iterable[EvalBatch]) -> Part:
    """The part with the floor and the temperature of the largest likelihood."""
    total = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    users, missed = 0, 0
    for known in batches:
        scores = part.scored(recent(known.batch, part.max_length))
        score_IB, target_B = scores.chunk(0, scores.items), scores.of(known.target_B)
        if part.counts:
            missed += int((target_B <= 0).sum())
            score_IB, target_B = score_IB.log(), target_B.log()
        users += len(target_B)
        found_B = target_B > -torch.inf
        for at, temperature in enumerate(TEMPERATURES):
            logp_B = target_B / temperature - (score_IB / temperature).logsumexp(0)
            total[at] += float(logp_B[found_B].sum())
    floor = (missed + 1) / (users + 2) if part.counts else 0.0
    return replace(part, temperature=TEMPERATURES[int(total.argmax())], floor=floor)


@torch.inference_mode()
def candidates(parts: list[Part], batches: Iterable[EvalBatch], train_count_I: Tensor) -> Candidates:
    """Log-probabilities of the candidates under every part. Excluded items (``EvalBatch.seen``) are no candidates; an
    excluded target is in no list."""
    rows: list[tuple[Tensor, ...]] = []
    for known in batches:
        distributions = [part.distribution(known.batch) for part in parts]
        logp_PBI = torch.stack([d.chunk(0, d.scores.items).t() for d in distributions])
        listed_BI = torch.ones_like(logp_PBI[0], dtype=torch.bool)
        if known.seen is not None:
            item_N, user_N = known.seen
            listed_BI[user_N, item_N - 1] = False
        best_PBk = logp_PBI.masked_fill(~listed_BI, -torch.inf).topk(min(LISTED, logp_PBI.shape[2]), dim=2).indices
        item_BX = torch.cat([known.target_B[:, None] - 1, best_PBk.transpose(0, 1).flatten(1)], 1)
        order_BX = item_BX.sort(dim=1, stable=True)
        repeated_BX = torch.zeros_like(item_BX, dtype=torch.bool)
        repeated_BX[:, 1:] = order_BX.values[:, 1:] == order_BX.values[:, :-1]
        repeated_BX = torch.zeros_like(repeated_BX).scatter(1, order_BX.indices, repeated_BX)
        real_BX = listed_BI.gather(1, item_BX) & ~repeated_BX
        logp_PBX = logp_PBI.gather(2, item_BX.expand(len(parts), -1, -1))
        last_B = known.batch.item_N[known.batch.packing.last_B]
        rows.append((logp_PBX.transpose(0, 1), real_BX, known.batch.packing.length_B, train_count_I[last_B - 1]))
    logp_UPX, real_UX, length_U, count_U = (torch.cat(column) for column in zip(*rows, strict=True))
    return Candidates(logp_UPX.transpose(0, 1).contiguous(), real_UX, length_U, count_U)


def ndcg(found: Candidates, form: str, weight_P: Tensor) -> Tensor:
    """``ndcg_U`` at 10 of the targets among the candidates, ties at their expected rank."""
    score_UX = mixed(form, found.logp_PUX, weight_P.to(found.logp_PUX)[:, None, None])
    score_UX = score_UX.masked_fill(~found.real_UX, -torch.inf)
    target_U1 = score_UX[:, :1]
    rank_U = (score_UX > target_U1).sum(1) + ((score_UX == target_U1) & found.real_UX).sum(1).sub(1) / 2
    return torch.where(rank_U < 10, 1 / (rank_U + 2).log2(), 0.0)


def likeliest(found: Candidates, rounds: int = 50) -> Tensor:
    """``weight_P`` of the largest likelihood of the targets, by expectation maximisation."""
    logp_PU = found.logp_PUX[:, :, 0].double()
    weight_P = torch.full((len(logp_PU),), 1 / len(logp_PU), dtype=torch.float64, device=logp_PU.device)
    for _ in range(rounds):
        weight_P = (logp_PU + weight_P.log()[:, None]).softmax(0).mean(1)
    return weight_P


def best_weights(found: Candidates, form: str, seed: int) -> Tensor:
    """``weight_P`` of the largest NDCG@10 on the validation users; it adds up to 1."""
    count = len(found.logp_PUX)
    generator = torch.Generator().manual_seed(seed)
    tried = [likeliest(found).cpu(), *torch.eye(count, dtype=torch.float64), torch.full((count,), 1 / count).double()]
    best, value = tried[0], -1.0
    for step in range(ROUNDS + 1):
        for weight_P in tried:
            if (mean := float(ndcg(found, form, weight_P).mean())) > value:
                best, value = weight_P, mean
        noise_NP = torch.randn(DRAWS, count, dtype=torch.float64, generator=generator)
        drawn_NP = (best + 0.3 / 2**step * noise_NP).clamp_min(0)
        tried = [w / w.sum() for w in drawn_NP if w.sum() > 0]
    return best


def fit(found: Candidates, seed: int) -> tuple[Mixing, dict[str, Any]]:
    """The form, the buckets and the weights, and the validation NDCG@10 of the parts and of what was tried."""
    forms: tuple[Form, ...] = ("sum", "product")
    weights = {form: best_weights(found, form, seed) for form in forms}
    value: dict[str, float] = {form: float(ndcg(found, form, weights[form]).mean()) for form in forms}
    form: Form = "product" if value["product"] > (1 + WORTHWHILE) * value["sum"] else "sum"
    parts = torch.eye(len(weights[form]), dtype=torch.float64)
    facts: dict[str, Any] = {"parts": [float(ndcg(found, "sum", part_P).mean()) for part_P in parts], **value}
    chosen, gain = Mixing(form, (tuple(weights[form].tolist()),)), WORTHWHILE
    even_U = torch.arange(len(found.length_U), device=found.length_U.device) % 2 == 0
    halves = (even_U, ~even_U)
    plain = _crossed(found, halves, form, seed, None)
    for by, value_U in (("length", found.length_U), ("count", found.count_U)):
        mixing = Mixing(form, (), by, _edges(value_U))  # type: ignore[arg-type]
        bucket_U = torch.bucketize(value_U, torch.tensor(mixing.edges, device=value_U.device), right=True)
        if not mixing.edges or plain == 0:
            continue
        facts[f"gain_by_{by}"] = _crossed(found, halves, form, seed, bucket_U) / plain - 1
        if facts[f"gain_by_{by}"] > gain:
            weight_GP = [best_weights(found.take(bucket_U == g), form, seed) for g in range(len(mixing.edges) + 1)]
            chosen, gain = (
                replace(mixing, weight_GP=tuple(tuple(w.tolist()) for w in weight_GP)),
                facts[f"gain_by_{by}"],
            )
    return chosen, facts


def _edges(value_U: Tensor) -> tuple[int, ...]:
    """Edges of buckets with about equal numbers of users, each with at least one."""
    rank = torch.arange(1, BUCKETS, device=value_U.device) * len(value_U) // BUCKETS
    edges = value_U.sort().values[rank].unique()
    return tuple(int(edge) for edge in edges if edge > value_U.min())


def _crossed(found: Candidates, halves: tuple[Tensor, Tensor], form: str, seed: int, bucket_U: Tensor | None) -> float:
    """NDCG@10 of the users of each half under the weights of the other half, by bucket."""
    total = 0.0
    for chosen_U, measured_U in (halves, halves[::-1]):
        for bucket in [None] if bucket_U is None else bucket_U.unique().tolist():
            inside_U = torch.ones_like(chosen_U) if bucket is None or bucket_U is None else bucket_U == bucket
            fitted_U = chosen_U & inside_U if (chosen_U & inside_U).any() else chosen_U
            weight_P = best_weights(found.take(fitted_U), form, seed)
            total += float(ndcg(found.take(measured_U & inside_U), form, weight_P).sum())
    return total / len(halves[0])
