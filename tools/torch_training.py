"""Train a network for so many seconds of processor time: what tools/distil.py and tools/fine_tune.py have in common.

AdamW, a rate of 0.001 that rises in the first twentieth of the time and falls to nothing by its end, batches of 128.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tools.pairs import Pair
from tools.torch_network import TorchNetwork

TEMPERATURE = 0.05
"""Of the softmax over cosines with class vectors."""
RATE = 1e-3
RISE = 0.05
"""Of the time, that in which the rate rises."""
BATCH = 128

View: TypeAlias = tuple[Tensor, list[Tensor]]
"""Images, and for each question what is to be answered to each of them."""


def processor_seconds() -> float:
    """What this process and its children have taken so far, all threads together."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def trained_for(
    seconds: float,
    network: TorchNetwork,
    view: Callable[[int], View],
    loss: Callable[[Tensor, list[Tensor]], Tensor],
    began: float | None = None,
) -> tuple[float, float]:
    """Train a network on the ``view`` of each epoch; the seconds that passed, and how often it saw all images.

    ``loss`` is of the network's output for a batch, and of what was to be answered. ``began`` is when the seconds
    began, where something else was done in them first.
    """
    began = processor_seconds() if began is None else began
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(network.train().parameters(), RATE)
    epoch, seen, rng = 0, 0.0, np.random.default_rng(0)
    while True:
        images, wanted = view(epoch)
        for rows in _batches(len(images), rng):
            spent = processor_seconds() - began
            if spent >= seconds:
                network.eval()
                return spent, seen
            passed = spent / seconds
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(passed / RISE, (1 - passed) / (1 - RISE))
            found = loss(network(images[rows]), [each[rows] for each in wanted])
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            seen += len(rows) / len(images)
        epoch += 1


def _batches(count: int, rng: np.random.Generator) -> Iterator[Tensor]:
    order = torch.from_numpy(rng.permutation(count))
    yield from (part for part in order.split(BATCH) if len(part) == BATCH or count < BATCH)


def questions(pair: Pair) -> list[Tensor]:
    """The class vectors [classes, outputs] that each question is answered by: all of a joint one together."""
    return [*map(torch.from_numpy, [np.concatenate(pair.vectors)] if pair.joint else pair.vectors)]


def log_chances(features: Tensor, vectors: Tensor) -> Tensor:
    """The logarithm of the softmax of cosines with class vectors over TEMPERATURE [samples, classes]."""
    cosines = functional.normalize(features) @ functional.normalize(vectors).T
    return functional.log_softmax(cosines / TEMPERATURE, 1)
