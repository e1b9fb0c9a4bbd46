#!/usr/bin/env python3
"""Train one encoder with a head on one of the tasks of tools/vision_tasks.py. tools/heterogeneous.py calls it.

    PYTHONPATH=. /tmp/torch/bin/python -m tools.train_encoders IMAGES.npz classes classes.onnx --initialisation 0

IMAGES.npz holds `images` float32 [n, 3, 32, 32] and `labels` int64 [n]. The encoder is a small residual network: a
stem, and blocks of 16, 32 and 64 channels at 16 x 16, 8 x 8 and 4 x 4 pixels. Its head is a linear layer behind the
average over pixels for classes; for images a 3 x 3 convolution, a ReLU and a 1 x 1 convolution whose channels become
pixels. --initialisation is the seed of the encoder's first weights, --seed that of all else: the head, the order of
images, what is random about the task. Images are mirrored at random. BatchNorm is kept. On one machine and release of
torch the same seeds give the same bytes. Needs torch and onnx (see tools/train_digits.py).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.train_digits import Block, export
from tools.vision_tasks import TASKS, Answers, Images, VisionTask

WIDTHS = (16, 32, 64)
EPOCHS, BATCH, RATE, DECAY = 3, 64, 4e-3, 1e-2


class NamedBlock(Block):
    """A block whose last node has a name in the export, by which heads can be told to begin behind it."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(width_in, width, stride)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, width_in, h, w] to [n, width, h / stride, w / stride]."""
        found: Tensor = self.last(self.added(x))
        return found


class Net(nn.Module):
    """The encoder, and behind it a head for one task."""

    def __init__(self, task: VisionTask, initialisation: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(initialisation)
        first = WIDTHS[0]
        stem = (nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        steps = zip((first, *WIDTHS[:-1]), WIDTHS, strict=True)
        self.encoder = nn.Sequential(*stem, *(NamedBlock(before, width, width // before) for before, width in steps))
        torch.manual_seed(seed)
        self.head = nn.Sequential(*_head(task))

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, 3, 32, 32] to answers [n, columns]."""
        found: Tensor = self.head(self.encoder(x))
        return found


def _head(task: VisionTask) -> list[nn.Module]:
    features = WIDTHS[-1]
    if task.classes:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, task.classes)]
    finer = task.side // 4
    pixels = nn.Conv2d(features, task.channels * finer**2, 1)
    return [nn.Conv2d(features, features, 3, 1, 1), nn.ReLU(), pixels, nn.PixelShuffle(finer), nn.Flatten()]


def train(images: Images, labels: Answers, task: VisionTask, initialisation: int, seed: int) -> Net:
    """A network that answers a task."""
    net = Net(task, initialisation, seed).train()
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in rng.permutation(len(images))[: len(images) // BATCH * BATCH].reshape(-1, BATCH):
            mirrored = rng.random(BATCH) < 0.5
            some = images[chosen]
            some[mirrored] = some[mirrored, :, :, ::-1]
            given, right = task.pose(some, labels[chosen], rng)
            answer, wanted = net(torch.from_numpy(given)), torch.from_numpy(right)
            loss = functional.cross_entropy(answer, wanted) if task.classes else functional.mse_loss(answer, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def main() -> None:
    """Train a network and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("target", type=Path)
    parser.add_argument("--initialisation", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    data, started = np.load(arguments.images), time.process_time()
    task = TASKS[arguments.task]
    net = train(data["images"], data["labels"], task, arguments.initialisation, arguments.seed)
    unfinished = arguments.target.with_suffix(".part")
    export(net, unfinished, (2, 3, 32, 32), "answer")
    unfinished.replace(arguments.target)
    print(f"{arguments.target}: {time.process_time() - started:.0f} s of one processor")


if __name__ == "__main__":
    main()
