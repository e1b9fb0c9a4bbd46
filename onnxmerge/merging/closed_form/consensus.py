"""What networks agree on that answer with directions: each counts where its answers vary.

A network trained for a task answers with the few directions that its task needs, and is silent in all others: there
its answers do not vary. The plain mean of two networks' answers e_m lets each speak where it has nothing to say, at
the same volume as the one that has. So each answer counts in every direction by its own variance there,

    t = mu + b sum_m (e_m - mu_m) F_m,        F_m = w_m (C_m + rho I) (sum_k w_k C_k + rho I)^-1,

with mu_m and C_m the mean and the covariance of model m's answers, mu the mean of the mu_m, w_m the models' shares.
The F_m add up to the identity: what all say alike is said, and where nobody varies the plain mean decides. That is
RegMean's average (Jin et al., ICLR 2023, arXiv 2212.09849) of the identity, for a reader of the answers who looks along
directions like the answers' own, as one does who compares an embedding with vectors of classes.

Where models were trained apart, their means point elsewhere and partly cancel: mu is shorter than theirs, and answers
would be too. So b is such that t has the models' length in the root mean square: what varies fills up what the mean has
lost, or a reader of directions would hear little but the mean. It is 1 for equal models, and never less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.types import Float, Rows

RIDGE = 0.1
"""rho as a share of the mean variance of a direction."""


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """How answers [positions, u] of each model become one, all brought to one ``length`` first.

    ``sizes`` [models] are their mean lengths, ``shares`` the w_m, ``centres`` [models, u] the mu_m, ``centre`` [u] is
    mu, ``factors`` [models, u, u] the F_m, ``volume`` is b. ``varies`` is the mean square of the models' answers about
    mu: what varies in each, and how far the mu_m are from each other.
    """

    length: float
    sizes: NDArray[np.float32]
    shares: NDArray[np.float32]
    centre: NDArray[np.float32]
    centres: NDArray[np.float32]
    factors: NDArray[np.float32]
    varies: float
    volume: float = 1.0

    def __call__(self, answers: Sequence[Rows]) -> Rows:
        """The agreed answer to each sample, of the models' answers to it."""
        return self.centre + np.float32(self.volume) * self.varying(answers)

    def varying(self, answers: Sequence[Rows]) -> Rows:
        """What varies in the agreed answers, as long as the models have it: sum_m (e_m - mu_m) F_m."""
        total = np.zeros_like(answers[0])
        for own, centre, factor in zip(answers, self.centres, self.factors, strict=True):
            total += (own * (self.length / lengths(own)) - centre) @ factor
        return total

    def volume_of(self, varying: Rows, *, keeps_mean: bool = True) -> float:
        """The b at which what varies [positions, u], with the mean or without, has the models' length; at least 1."""
        wanted = self.varies if keeps_mean else self.length**2
        own = float(np.square(varying, dtype=np.float64).sum(axis=1).mean())
        return float(np.sqrt(max(wanted / own, 1.0))) if own > 0 else 1.0

    def at_length(self, answers: Sequence[Rows]) -> Rows:
        """The agreed answers [positions, u], each as long, relative to the others, as the models' are on average."""
        every = zip(answers, self.sizes, self.shares, strict=True)
        return np.asarray(self(answers) * sum(share * lengths(own) / size for own, size, share in every), np.float32)


def consensus(answers: Sequence[Rows], shares: Sequence[float]) -> Consensus:
    """Learn from a sample of each model's answers [positions, u] what each has to say; ``shares`` are the w_m."""
    sizes = np.array([lengths(own).mean(dtype=np.float64) for own in answers])
    length = float(np.average(sizes, weights=shares))
    wide = [own * (length / lengths(own)).astype(np.float64) for own in answers]
    centres = np.stack([own.mean(axis=0) for own in wide])
    spread = np.stack([np.cov(own, rowvar=False, bias=True).reshape(own.shape[1], -1) for own in wide])
    total = np.average(spread, axis=0, weights=shares)
    eye = np.eye(len(total)) * max(RIDGE * np.trace(total) / len(total), np.finfo(np.float32).tiny)
    inverse = np.linalg.inv(total + eye)
    factors = np.stack([share * (own + eye) @ inverse for own, share in zip(spread, shares, strict=True)])
    centre = np.average(centres, axis=0, weights=shares)
    about = [float(np.square(own - centre).sum(axis=1).mean()) for own in wide]  # length^2 - |mu|^2 would cancel
    varies = float(np.average(about, weights=shares))
    sizes, shared, centre, centres, factors = (
        np.asarray(part, np.float32) for part in (sizes, shares, centre, centres, factors)
    )
    agreed = Consensus(length, sizes, shared, centre, centres, factors, varies)
    return replace(agreed, volume=agreed.volume_of(agreed.varying(answers)))


def unit(rows: NDArray[Float]) -> NDArray[Float]:
    """The rows [positions, coordinates] at length one; a row of zeros stays as it is."""
    found: NDArray[Float] = rows / lengths(rows)
    return found


def lengths(rows: NDArray[Float]) -> NDArray[Float]:
    """The length of each row, [positions, 1]; never 0."""
    found: NDArray[Float] = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return found
