"""docs/performance.md, made of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

_GIGA = 10**9

_INTRODUCTION = """# Performance

    PYTHONPATH=. python tools/bench.py {jobs} --json bench.json --page docs/performance.md

made this page on {machine}. {note}Every row is `onnxmerge run` as a process of its own, from its start to the
written file, certificates included, beside the *floor*: the forward pass of all parents over the same samples by ONNX
Runtime, one product of all units of each group at the speed of BLAS here, one assignment for each group, the parents
read once and the result written once. Of fine-tunes of a base no units are matched, the base is read too, and where the
method takes matrices apart (*SVD*), LAPACK finds the eigenvectors of one Gram matrix for each, on all cores. Floor and
command were measured in turn; *ratio* is of the two. *Processor* are the seconds of all cores together. *Memory* is the
peak of anonymous memory, which leaves out files that the system holds anyway. Weights of ResNet-50 (25.5 M parameters,
images of 64x64), ViT-B/16 (86 M, images of 224x224), BERT-base (109 M, sequences of 128 tokens) and decoders of the
Llama family (499 M; decoder-10g 2.5 billion) are drawn, and so is what fine-tunes learnt (*vit-b16-8-tuned*: 8 of the
ViT, *decoder-3-tuned*: 3 of the decoder of 499 M); those of the other pairs were trained (shared/). *Reference* is what
the published code took where the pair was made; *peer* what `tools/bench.py --peer` timed in the same run.
"""

_COLUMNS = (
    "job, floor s, of it forward, products, assignment, SVD, disk, seconds, ratio, processor s, memory GB, "
    "reference s, peer s"
)
_HEAD = (f"| {' | '.join(_COLUMNS.split(', '))} |", f"|{' --- |' * len(_COLUMNS.split(', '))}")


def row(name: str, found: Mapping[str, Any]) -> str:
    """One job as a row of the table."""
    floor, reference = found["floor"], found["reference_seconds"]
    parts = [f"{floor[part]:.1f}" for part in ("seconds", "forward", "products", "assignment", "decomposition", "disk")]
    times = [f"{found['seconds']:.1f}", f"{found['ratio']:.1f}", f"{found['processor_seconds']:.1f}"]
    times.append(f"{found['peak_anonymous'] / _GIGA:.2f}")
    others = ("" if each is None else f"{each:.1f}" for each in (reference, found["peer_seconds"]))
    cells = [name, *parts, *times, *others]
    return f"| {' | '.join(cells)} |"


def page(rows: Mapping[str, Mapping[str, Any]], note: str = "") -> str:
    """The whole page; ``note`` is what else is to be known of the measurement."""
    machine = f"{os.cpu_count()} cores ({platform.machine()}, {platform.system()})"
    lines = [
        _INTRODUCTION.format(machine=machine, jobs=" ".join(rows), note=f"{note} " if note else ""),
        *_HEAD,
        *(row(name, found) for name, found in rows.items()),
    ]
    lines += ["", "## Where the time goes", "", "Seconds by stage.", ""]
    stages = list(dict.fromkeys(stage for found in rows.values() for stage in found["stages"]))
    lines += [f"| job | {' | '.join(stages)} |", f"| --- |{' --- |' * len(stages)}"]
    for name, found in rows.items():
        cells = [f"{found['stages'][stage]:.1f}" if stage in found["stages"] else "" for stage in stages]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
