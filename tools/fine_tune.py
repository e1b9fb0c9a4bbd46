#!/usr/bin/env python3
"""Fine-tune a merge for a minute, beside a parent that is fine-tuned for as long.

    PYTHONPATH=. taskset -c 1 nice -n 5 PYTHON tools/fine_tune.py [--pair NAME ...] [--merge FILE] [--seconds N]
        [--markdown]

PYTHON has onnxmerge, torch and Pillow; the pairs are those of shared/ (see tools/pairs.py). The merge is what
`onnxmerge run --tasks --export-for-training` does by default on the unlabelled calibration images, or --merge, which
was made so. It and the first parent then learn the same 5,000 images with their labels, of both tasks: cross-entropy
of cosines with the class vectors over 0.05, trained as tools/torch_training.py says; nothing was tuned. Seconds are of
processor time. Written back as ONNX, the networks are scored on the test images, before and after.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from onnxmerge import merge
from tools.pairs import PAIRS, Pair, open_pair, row_printer
from tools.torch_network import TorchNetwork, roles_of
from tools.torch_training import log_chances, questions, trained_for

LABELLED = PAIRS[1:]
"""Pairs whose calibration images have labels."""


def main() -> None:
    """Merge, fine-tune, and print a row for each pair and network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="*", default=LABELLED, choices=LABELLED)
    parser.add_argument("--merge", type=Path, metavar="FILE", help="a merge of the (one) pair for training")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if arguments.merge is not None and len(arguments.pair) != 1:
        parser.error("--merge is of one pair: name it (--pair)")
    torch.set_num_threads(1)
    show = row_printer(22, markdown=arguments.markdown)
    show("pair", "network", "before", "after", "epochs")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.pair:
            pair, made = open_pair(name), Path(folder, "made.onnx")
            if arguments.merge is None:
                images = pair.calibration
                merged = merge(pair.models, calibration=images, tasks=pair.tasks, export_for_training=True).save(made)
            else:
                merged = arguments.merge
            roles = roles_of(onnx.load(merged))
            for what, path in (("merge", merged), ("first parent", pair.models[0])):
                before, network = pair.accuracy(path), TorchNetwork(onnx.load(path), roles)
                epochs = fine_tuned(network, pair, arguments.seconds)
                onnx.save(network.onnx(), made)
                show(name, what, f"{before:.2f}", f"{pair.accuracy(made):.2f}", f"{epochs:.1f}")


def fine_tuned(network: TorchNetwork, pair: Pair, seconds: float) -> float:
    """Train a network on a pair's labelled images; how often it saw them."""
    if pair.labels is None:
        raise SystemExit(f"{pair.name}: its images have no labels")
    vectors, images = questions(pair), torch.from_numpy(pair.calibration)
    own = [torch.from_numpy(rows[pair.labels]) for rows in pair.rows_of]
    wanted = [_jointly(own, pair)] if pair.joint else own

    def loss(features: Tensor, right: list[Tensor]) -> Tensor:
        every = [functional.nll_loss(log_chances(features, a), b) for a, b in zip(vectors, right, strict=True)]
        return torch.stack(every).mean()

    _, epochs = trained_for(seconds, network, lambda _epoch: (images, wanted), loss)
    return epochs


def _jointly(own: list[Tensor], pair: Pair) -> Tensor:
    """Which of all class vectors, those of one task after the other, each image is of."""
    starts = np.cumsum([0, *(len(each) for each in pair.vectors)])
    found = torch.full_like(own[0], -1)
    for start, rows in zip(starts, own, strict=False):
        found = torch.where(rows >= 0, rows + int(start), found)
    return found


if __name__ == "__main__":
    main()
