#!/usr/bin/env python3
"""Train a ResNet-20 on the images of one task's classes, against class vectors. tools/multi_task.py calls it.

    PYTHONPATH=. /tmp/torch/bin/python -m tools.train_halves IMAGES.npz PAIR.json TASK TARGET.onnx --seed 11

IMAGES.npz holds `images` float32 [n, 3, 32, 32] and `labels` int64 [n]; PAIR.json the tasks, each with its classes and
their vectors, as `onnxmerge eval --tasks` reads them. The output is an embedding: a class is the vector that it is
nearest to by cosine. Images are mirrored at random and shifted by up to an eighth of their width. All epochs but the
last ones see images of half the width, which takes a quarter of the time. BatchNorm is kept. On one machine and release
of torch the same seed gives the same bytes. Needs torch and onnx (see tools/train_digits.py).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.train_digits import Block, export

WIDTHS, DEPTH = (32, 64, 128), 3
"""Channels of the three stages, and the blocks of each: those of shared/pairs/cifar5-resnet20."""
HALF, WHOLE = 7, 1
"""Epochs on images of half the width, and then of the whole."""
BATCH, RATE, DECAY = 64, 4e-3, 5e-2
TEMPERATURE = 0.05
"""Of the softmax over cosines with class vectors."""


class Net(nn.Module):
    """A ResNet-20 (He et al., arXiv 1512.03385, section 4.2) with a convolution where a shortcut changes its shape."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        width = WIDTHS[0]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for stage, wider in enumerate(WIDTHS):
            for place in range(DEPTH):
                layers.append(Block(width, wider, 2 if stage and not place else 1))
                width = wider
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, side, side] to embeddings [n, outputs]."""
        found: Tensor = self.layers(images)
        return found


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n, 3, side, side], some mirrored, all of a batch shifted alike; what comes in is grey."""
    side = images.shape[-1]
    most = side // 8
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    down, across = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    return functional.pad(images, (most,) * 4)[..., down : down + side, across : across + side]


def train(images: Tensor, rows: Tensor, vectors: Tensor, seed: int) -> Net:
    """A network whose embedding of ``images`` [n, 3, side, side] is nearest to ``rows`` [n] of ``vectors``."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = Net(vectors.shape[1]).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    steps = (HALF + WHOLE) * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    for epoch in range(HALF + WHOLE):
        shown = functional.avg_pool2d(images, 2) if epoch < HALF else images
        total = 0.0
        for chosen in torch.randperm(len(shown), generator=generator)[: len(shown) // BATCH * BATCH].split(BATCH):
            given = varied(shown[chosen], generator).contiguous(memory_format=torch.channels_last)
            cosines = functional.normalize(net(given)) @ vectors.T
            loss = functional.cross_entropy(cosines / TEMPERATURE, rows[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / (len(shown) // BATCH):.3f}, {time.process_time():.0f} s", flush=True)
    return net.to(memory_format=torch.contiguous_format).eval()


def main() -> None:
    """Train a network and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("pair", type=Path)
    parser.add_argument("task", type=int)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    data, task = np.load(arguments.images), json.loads(arguments.pair.read_text("utf-8"))["tasks"][arguments.task]
    classes = np.array(task["classes"])
    own = np.isin(data["labels"], classes)
    place = np.full(classes.max() + 1, -1)
    place[classes] = range(len(classes))
    rows = torch.from_numpy(place[data["labels"][own]])
    vectors = functional.normalize(torch.tensor(task["vectors"], dtype=torch.float32))
    net = train(torch.from_numpy(data["images"][own]), rows, vectors, arguments.seed)
    unfinished = arguments.target.with_suffix(".part")
    export(net, unfinished, (2, 3, 32, 32))
    unfinished.replace(arguments.target)
    print(f"{arguments.target}: {time.process_time():.0f} s of one processor")


if __name__ == "__main__":
    main()
