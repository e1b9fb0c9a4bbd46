#!/usr/bin/env python3
"""Distil the ensemble of a pair's parents into one network, for as long as the merge takes, and compare with it.

    PYTHONPATH=. taskset -c 1 nice -n 5 PYTHON tools/distil.py [--pair NAME ...] [--method NAME]
        [--times N ...] [--start parent merge] [--append FILE] [--keep FOLDER]
        [--merge FILE --took SECONDS] [--markdown]

PYTHON has onnxmerge, torch, onnx and Pillow. Merge and distillation have the same: the two files, the unlabelled
calibration images, the class vectors of the tasks. The merge is what `onnxmerge run --tasks` does by default, or
`--method NAME --refine ls --answer ensemble`: one way, where the default tries three and does the best. Seconds
are of processor time, all threads together, for the machine may do other things; a distillation has N times as many as
the merge took, whatever is needed in them included.

The student is a copy of the first parent, or the merge. It is asked what the ensemble answers (docs/evaluating.md):
each parent among the classes that it learned, the softmax of cosines over 0.05, both side by side where a joint
question is asked. Half of the loss is the divergence of its own softmax from that, half the cross-entropy with the
class that the ensemble names: parents that are both sure, each of a class of its own, leave a soft answer undecided.
AdamW, a rate of 0.001 that falls to nothing over the time (after a rise in its first twentieth), batches of 128. Only
the loss was changed after a look at results: the divergence alone left digits undecided. From N = 2 on, images are also
shown moved by up to an eighth of their side, photographs mirrored as well, in up to eight views, for each of which the
parents answer anew (Beyer et al., Knowledge distillation: a good teacher is patient and consistent, CVPR 2022).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnxmerge import merge
from onnxmerge.model import read_network
from onnxmerge.model.session import open_session
from tools.pairs import PAIRS, Images, Pair, open_pair, row_printer
from tools.torch_network import TorchNetwork, roles_of
from tools.torch_training import TEMPERATURE, View, log_chances, processor_seconds, questions, trained_for

VIEWS = 8
"""Of the images, at most."""


def main() -> None:
    """Merge and distil, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs="*", default=PAIRS, choices=PAIRS)
    parser.add_argument("--method", help="merge by this, solved for the ensemble's answer, not by what is found best")
    parser.add_argument("--times", nargs="*", type=float, default=[1, 10])
    parser.add_argument("--start", nargs="*", default=["parent", "merge"], choices=["parent", "merge"])
    parser.add_argument("--append", type=Path, metavar="FILE", help="write the rows to a file too, one by one")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put the merges there, as PAIR.onnx")
    parser.add_argument("--merge", type=Path, metavar="FILE", help="a merge of the (one) pair that was kept")
    parser.add_argument("--took", type=float, metavar="SECONDS", help="what that merge took")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if (arguments.merge is None) != (arguments.took is None):
        parser.error("--merge FILE and --took SECONDS go together")
    if arguments.merge is not None and len(arguments.pair) != 1:
        parser.error("--merge is of one pair: name it (--pair)")
    torch.set_num_threads(1)
    show = row_printer(28, markdown=arguments.markdown, file=arguments.append)
    show("pair", "what", "accuracy", "processor seconds", "epochs")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.pair:
            pair, made = open_pair(name), Path(folder, "made.onnx")
            show(name, "ensemble of the parents", f"{pair.accuracy(None):.2f}", "", "")
            if arguments.merge is not None:
                made.write_bytes(arguments.merge.read_bytes())
            seconds = _merged(pair, made, arguments.method) if arguments.took is None else arguments.took
            merged = onnx.load(made)
            if arguments.keep is not None:
                onnx.save(merged, arguments.keep / f"{name}.onnx")
            show(name, "merge", f"{pair.accuracy(made):.2f}", f"{seconds:.0f}", "")
            for times in arguments.times:
                views = min(max(1, round(times)), VIEWS)
                for start in arguments.start:
                    student = onnx.load(pair.models[0]) if start == "parent" else merged
                    network, spent, epochs = _distilled(pair, student, merged, seconds * times, views)
                    onnx.save(network.onnx(), made)
                    what = f"distilled {times:g}x, from the {'first parent' if start == 'parent' else 'merge'}"
                    show(name, what, f"{pair.accuracy(made):.2f}", f"{spent:.0f}", f"{epochs:.1f}")


def _merged(pair: Pair, path: Path, method: str | None) -> float:
    """Merge by default or by a method; the processor seconds until that was written."""
    how: dict[str, Any] = {} if method is None else {"method": method, "refine": "ls", "answer": "ensemble"}
    began = processor_seconds()
    result = merge(pair.models, calibration=pair.calibration, tasks=pair.tasks, export_for_training=True, **how)
    result.save(path)
    return processor_seconds() - began


def _distilled(
    pair: Pair, student: onnx.ModelProto, merged: onnx.ModelProto, seconds: float, views: int
) -> tuple[TorchNetwork, float, float]:
    """A student trained for so many processor seconds; those that it took, and how often it saw all images."""
    began = processor_seconds()
    network, teacher, vectors = TorchNetwork(student, roles_of(merged)), Teacher(pair, views), questions(pair)
    spent, epochs = trained_for(
        seconds, network, teacher.view, lambda features, wanted: disagreement(features, vectors, wanted), began
    )
    return network, spent, epochs


def disagreement(features: Tensor, vectors: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The mean over questions: half KL(wanted, own), half the cross-entropy with the class that is wanted most.

    ``own`` is the softmax of the features' cosines with the vectors over TEMPERATURE. ``wanted`` is in float64, where
    answers of parents that are both sure still differ.
    """
    losses = []
    for known, answer in zip(vectors, wanted, strict=True):
        own = log_chances(features, known)
        divergence = functional.kl_div(own, answer.to(own.dtype), reduction="batchmean")
        losses.append((divergence + functional.nll_loss(own, answer.argmax(1))) / 2)
    return torch.stack(losses).mean()


@dataclass(slots=True, eq=False)
class Teacher:
    """What the parents answer, on views of the images that are made when they are first wanted."""

    pair: Pair
    views: int
    _known: dict[int, View] = field(default_factory=dict)

    def view(self, epoch: int) -> View:
        """The images of an epoch, and the answer to each question [images, classes]."""
        place = epoch % self.views
        if place not in self._known:
            images = self.pair.calibration if place == 0 else moved(self.pair.calibration, place)
            own = [_answers(path, images, each) for path, each in zip(self.pair.models, self.pair.vectors, strict=True)]
            asked = [np.concatenate(own, axis=1) / len(own)] if self.pair.joint else own
            self._known[place] = torch.from_numpy(images), [*map(torch.from_numpy, asked)]
        return self._known[place]


def _answers(path: Path, images: Images, vectors: Images) -> NDArray[np.float64]:
    """A parent's probabilities among its classes [images, classes]."""
    network = read_network(path)
    session = open_session(network.model, weights=network.weights)
    (name,) = (str(value.name) for value in network.graph.inputs)
    parts = [next(iter(session.run({name: part}).values())) for part in np.array_split(images, -(-len(images) // 500))]
    features = functional.normalize(torch.from_numpy(np.concatenate(parts)).double())
    known = functional.normalize(torch.from_numpy(vectors).double())
    found: NDArray[np.float64] = (features @ known.T / TEMPERATURE).softmax(1).numpy()
    return found


def moved(images: Images, seed: int) -> Images:
    """The images, each moved by up to an eighth of its side, photographs (of three channels) mirrored at random."""
    rng, found = np.random.default_rng(seed), np.empty_like(images)
    side = images.shape[-1]
    far = side // 8
    wide = np.pad(images, ((0, 0), (0, 0), (far, far), (far, far)), mode="edge")
    for index, (down, right) in enumerate(rng.integers(0, 2 * far + 1, (len(images), 2))):
        found[index] = wide[index, :, down : down + side, right : right + side]
    mirrored = rng.random(len(images)) < (0.5 if images.shape[1] == 3 else 0.0)
    found[mirrored] = found[mirrored][..., ::-1]
    return found


if __name__ == "__main__":
    main()
