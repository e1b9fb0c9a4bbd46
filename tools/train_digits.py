"""Train the example networks of onnxmerge/examples/digits.

    python -m venv /tmp/torch
    /tmp/torch/bin/pip install torch==2.13.0 onnx scikit-learn
    /tmp/torch/bin/python tools/train_digits.py onnxmerge/examples/digits
    /tmp/torch/bin/python tools/train_digits.py /tmp/four --seeds 11 12 13 14

Each network learns one task, the digits 0-4 or 5-9 (the tasks take turns over the seeds), from its own
initialisation and on its own share of scikit-learn's 8x8 digits. Its output is an embedding, and a class is the
fixed vector that it is nearest to by cosine: the part that a text encoder plays in CLIP-like models, so that networks
of different classes share an output space and merging needs no surgery on heads. The vectors here mean nothing: the
rows of a random orthonormal matrix.

Written: a.onnx, b.onnx, ... (BatchNorm kept); calib.npz, the training images of all tasks without labels;
test.npz, images and labels that played no part in training; task.json, the tasks with their class vectors.
On one machine and release of torch the same seeds give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

TASKS = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
SPLIT_SEED = 2024
VECTOR_SEED = 2025
SOURCE = (
    "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), CC BY 4.0, "
    "as distributed with scikit-learn; class vectors are rows of a random orthonormal matrix"
)

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, width_in, H, W] to [N, width, H / stride, W / stride]."""
        return functional.relu(self.added(x))

    def added(self, x: Tensor) -> Tensor:
        """What the convolutions add to the shortcut, and that."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        found: Tensor = self.bn2(self.conv2(inner)) + self.shortcut(x)
        return found


class Net(nn.Module):
    """A small residual network: stem, one block at 8x8, one at 4x4, global average, embedding."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width, width), Block(width, 2 * width, 2))
        self.head = nn.Linear(2 * width, embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 1, 8, 8] to embeddings [N, embedding]."""
        x = self.blocks(functional.relu(self.bn(self.stem(x))))
        return self.head(x.mean((2, 3)))


def split(share: float) -> tuple[Images, Labels, Images, Labels]:
    """Training images [N, 1, 8, 8] in [-1, 1] and their labels, then those of the test: ``share`` of every class."""
    digits = load_digits()
    images = (digits.images / 8 - 1).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    rng = np.random.default_rng(SPLIT_SEED)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: round(share * len(members))]] = True
    return images[~test], labels[~test], images[test], labels[test]


def class_vectors(width: int) -> Images:
    """Ten orthonormal vectors [10, width], to six decimals as task.json holds them."""
    basis = np.linalg.qr(np.random.default_rng(VECTOR_SEED).normal(size=(width, 10)))[0].T
    return basis.round(6).astype(np.float32)


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to one pixel either way (what comes in is background) and add a little noise."""
    padded = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    shifts = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    moved = torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, shifts, strict=True)])
    return moved + 0.1 * torch.randn(moved.shape, generator=generator)


def train(images: Images, targets: Labels, vectors: Images, *, seed: int, width: int, epochs: int) -> Net:
    """A network whose embedding of ``images`` is nearest to row ``targets`` of ``vectors`` [classes, embedding]."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = Net(width, vectors.shape[1])
    x, y, rows = torch.from_numpy(images), torch.from_numpy(targets), torch.from_numpy(vectors)
    batch = 64
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for chosen in order[: len(x) // batch * batch].split(batch):
            cosine = functional.normalize(net(jitter(x[chosen], generator)), dim=1) @ rows.T
            loss = functional.cross_entropy(10 * cosine, y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracy(net: Net, images: Images, targets: Labels, vectors: Images) -> float:
    """The share of ``images`` whose embedding is nearest to its class vector."""
    with torch.no_grad():
        found = (net(torch.from_numpy(images)) @ torch.from_numpy(vectors).T).argmax(1)
    return float((found.numpy() == targets).mean())


def export(net: nn.Module, path: Path, shape: tuple[int, ...] = (2, 1, 8, 8), answer: str = "embedding") -> None:
    """Write ``net`` with BatchNorm as it is; TorchScript's exporter folds it in unless the mode is preserved."""
    torch.onnx.export(
        net,
        (torch.zeros(shape),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=17,
        input_names=["images"],
        output_names=[answer],
        dynamic_axes={"images": {0: "n"}, answer: {0: "n"}},
    )


def main() -> None:
    """Train one network for each seed and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12], help="one network each")
    parser.add_argument("--width", type=int, default=24, help="channels of the first block; the second has twice these")
    parser.add_argument("--embedding", type=int, default=32, help="length of a class vector")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--test-share", type=float, default=0.3)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    images, labels, test_images, test_labels = split(args.test_share)
    vectors = class_vectors(args.embedding)
    models = []
    for index, seed in enumerate(args.seeds):
        task = index % len(TASKS)
        classes = np.array(TASKS[task])
        rows = vectors[classes]
        mine, test_mine = np.isin(labels, classes), np.isin(test_labels, classes)
        targets, test_targets = (np.searchsorted(classes, y) for y in (labels[mine], test_labels[test_mine]))
        net = train(images[mine], targets, rows, seed=seed, width=args.width, epochs=args.epochs)
        name = f"{string.ascii_lowercase[index]}.onnx"
        export(net, args.folder / name)
        models.append({"file": name, "task": task, "seed": seed})
        scores = (
            accuracy(net, images[mine], targets, rows),
            accuracy(net, test_images[test_mine], test_targets, rows),
        )
        print(
            f"{name}: digits {TASKS[task]}, seed {seed}, accuracy {scores[0]:.4f} in training, {scores[1]:.4f} on test"
        )

    np.savez_compressed(args.folder / "calib.npz", images=images)
    np.savez_compressed(args.folder / "test.npz", images=test_images, labels=test_labels)
    description = {
        "name": args.folder.name,
        "source": SOURCE,
        "input": "images",
        "output": "embedding",
        "kind": "classes",
        "models": models,
        "tasks": [
            {
                "name": f"{task[0]}-{task[-1]}",
                "classes": task,
                "vectors": [[round(float(v), 6) for v in vectors[c]] for c in task],
            }
            for task in TASKS
        ],
    }
    (args.folder / "task.json").write_text(json.dumps(description, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
