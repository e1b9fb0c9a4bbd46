"""Weights as training would leave them in size: no constant tensors, no signal that dies or explodes.

Fresh networks are poor tests: biases of zero and scales of one hide wrong permutations, weights of 0.02 in a narrow
transformer leave its attention uniform, and unset running statistics let a deep network explode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

LINEAR = (nn.Linear, nn.Bilinear)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSFORMER_LINEAR = "Conv1D"
"""GPT-2's linear layer, whose weight is [in, out]."""


def make_plausible(model: nn.Module) -> None:
    """Draw what learning would move: matrices by fan-in, scales near one, biases near zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            owned = list(module.named_parameters(recurse=False))
            if type(module).__name__ == "FrozenBatchNorm2d":
                owned += list(module.named_buffers(recurse=False))
            for name, parameter in owned:
                if parameter.is_floating_point():
                    _redraw(module, name, parameter, generator)


def calibrate(model: nn.Module, forward: Callable[[], object]) -> None:
    """Set running statistics from one pass in which every BatchNorm normalises by its batch."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]  # noqa: SLF001
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    try:
        with torch.no_grad():
            forward()
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
            if norm.running_var is not None:
                norm.running_var.clamp_(min=1e-3)


def learned(model: nn.Module) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Parameters and running statistics by name."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, parameter.detach().numpy()
    statistics = (nn.modules.batchnorm._NormBase,)  # noqa: SLF001
    for prefix, module in model.named_modules():
        if isinstance(module, statistics) or type(module).__name__ == "FrozenBatchNorm2d":
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    yield f"{prefix}.{name}", buffer.detach().numpy()


def _redraw(module: nn.Module, name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    def normal(mean: float, std: float) -> None:
        parameter.copy_(mean + std * torch.randn(parameter.shape, generator=generator))

    fan_in = _fan_in(module, name, parameter)
    if fan_in:
        gain = math.sqrt(2) if isinstance(module, CONVOLUTIONS + TRANSPOSED) else 1.0
        normal(0.0, gain / math.sqrt(fan_in))
    elif isinstance(module, nn.Embedding):
        normal(0.0, 0.5)
    elif parameter.numel() > 1:
        mean, std = float(parameter.mean()), float(parameter.std())
        if std > 0.1 * abs(mean) and std > 0.05:
            return  # drawn by its own initialisation, and large enough to matter
        if abs(mean) < 1e-8 or std > abs(mean):
            normal(0.0, 0.1 if parameter.dim() == 1 else 0.3)
        elif 0 < mean < 0.1 and std == 0:
            normal(0.3, 0.05)  # LayerScale starts where its branch can hardly be seen
        else:
            normal(mean, 0.1 * abs(mean))


def _fan_in(module: nn.Module, name: str, parameter: torch.Tensor) -> int:
    """How many inputs one output sums; 0 for what is no matrix."""
    shape, kind = [int(size) for size in parameter.shape], type(module).__name__
    if len(shape) < 2:
        return 0
    if isinstance(module, CONVOLUTIONS):
        return math.prod(shape[1:])
    if isinstance(module, TRANSPOSED) or kind == TRANSFORMER_LINEAR:
        return shape[0]
    recurrent = isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and "weight" in name
    if isinstance(module, LINEAR) or recurrent:
        return shape[1]
    if len(shape) == 3 and ("expert" in kind.lower() or "proj" in name):
        return shape[2]
    return 0
