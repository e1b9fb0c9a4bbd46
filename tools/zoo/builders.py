"""From an entry of the catalogue to a network and its inputs. The only place that knows the model libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LONG = (1, 12)
WORDS = 100


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue: what to build, and what to feed it.

    ``inputs`` maps input names to shapes, or to ``ids``, ``mask`` or ``types`` for those of language models, with a
    shape after it if it is not [1, 12]. ``arguments`` go to the builder; ``exporters`` are tried in turn, or all of
    them where ``both`` is set.
    """

    source: str
    name: str
    builder: str
    inputs: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    exporters: tuple[str, ...] = ("dynamo", "torchscript")
    both: bool = False
    dynamic: bool = True
    outputs: tuple[str, ...] = ()


class Flat(nn.Module):
    """Any network as positional tensors in, tensors out; so that exporters see no dictionaries or dataclasses."""

    def __init__(self, network: nn.Module, names: tuple[str, ...] | None, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names, self.outputs = network, names, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the wanted names, or all tensors among them."""
        made = (
            self.network(*tensors)
            if self.names is None
            else self.network(**dict(zip(self.names, tensors, strict=True)))
        )
        if self.outputs:
            return tuple(_flat([made[name] for name in self.outputs]))
        return tuple(_flat(made))


def _flat(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, Mapping):
        for value in made.values():
            yield from _flat(value)
    elif isinstance(made, (list, tuple)):
        for value in made:
            yield from _flat(value)


def build(entry: Entry) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network in evaluation mode, behind a flat interface, and its inputs."""
    torch.manual_seed(0)
    network, by_name = BUILDERS[entry.builder](entry)
    names = tuple(entry.inputs) if by_name else None
    return Flat(network.eval(), names, entry.outputs).eval(), tuple(_input(spec) for spec in entry.inputs.values())


def _input(spec: Any) -> Tensor:
    if isinstance(spec, list):
        return torch.randn(spec)
    kind, *sizes = str(spec).split()
    shape = tuple(map(int, sizes)) or LONG
    if kind == "ids":
        return torch.randint(3, WORDS, shape)
    return torch.ones(shape, dtype=torch.long) if kind == "mask" else torch.zeros(shape, dtype=torch.long)


def _torchvision(entry: Entry) -> tuple[nn.Module, bool]:
    import torchvision

    return torchvision.models.get_model(entry.name, weights=None, **entry.arguments), False


def _segmentation(entry: Entry) -> tuple[nn.Module, bool]:
    import torchvision

    return torchvision.models.get_model(entry.name, weights=None, weights_backbone=None, **entry.arguments), False


def _detection(entry: Entry) -> tuple[nn.Module, bool]:
    import torchvision

    return DetectionParts(torchvision.models.get_model(entry.name, weights=None, weights_backbone=None)), False


def _flow(entry: Entry) -> tuple[nn.Module, bool]:
    import torchvision

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = torchvision.models.get_model(entry.name, weights=None)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.network(first, second, num_flow_updates=2)[-1]

    return Flow(), False


def _vgg(entry: Entry) -> tuple[nn.Module, bool]:
    """VGG with a narrow classifier: 100 of its 138 million weights stand in one matrix."""
    network, _ = _torchvision(entry)
    layers: Any = network.classifier
    layers[0], layers[3], layers[6] = nn.Linear(512 * 7 * 7, 256), nn.Linear(256, 256), nn.Linear(256, 1000)
    return network, False


def _regnet(entry: Entry) -> tuple[nn.Module, bool]:
    """The widest RegNets at a quarter of their width."""
    from torchvision.models.regnet import BlockParams

    original = BlockParams.from_init_params

    def narrow(**kwargs: Any) -> BlockParams:
        quarter = {"w_0": kwargs["w_0"] // 32 * 8, "group_width": kwargs["group_width"] // 4, "w_a": kwargs["w_a"] / 4}
        return original(**{**kwargs, **quarter})

    BlockParams.from_init_params = staticmethod(narrow)
    return _torchvision(entry)


def _convnext(_entry: Entry) -> tuple[nn.Module, bool]:
    """ConvNeXt-L at a quarter of its width."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths, depths = (48, 96, 192, 384), (3, 3, 27, 3)
    blocks = [CNBlockConfig(a, b, n) for a, b, n in zip(widths, (*widths[1:], None), depths, strict=True)]
    return ConvNeXt(blocks, stochastic_depth_prob=0.0), False


def _mvit(entry: Entry) -> tuple[nn.Module, bool]:
    """MViT for clips of 4 frames of 64x64."""
    from torchvision.models.video import mvit

    original = mvit._mvit  # noqa: SLF001
    mvit._mvit = lambda **kwargs: original(**{**kwargs, "spatial_size": (64, 64), "temporal_size": 4})  # noqa: SLF001
    return _torchvision(entry)


def _class(entry: Entry) -> tuple[nn.Module, bool]:
    """A class by its dotted name, with arguments."""
    arguments = dict(entry.arguments)
    module, _, name = str(arguments.pop("class")).rpartition(".")
    return getattr(importlib.import_module(module), name)(**arguments), False


def _timm(entry: Entry) -> tuple[nn.Module, bool]:
    import timm

    arguments = dict(entry.arguments)
    return timm.create_model(arguments.pop("model", entry.name), pretrained=False, **arguments), False


def _transformers(entry: Entry) -> tuple[nn.Module, bool]:
    import transformers

    arguments = dict(entry.arguments)
    model = getattr(transformers, arguments.pop("class"))
    config = _configure(transformers, arguments)
    attention = arguments.get("attention", "eager")
    config._attn_implementation = attention  # noqa: SLF001
    config._experts_implementation = "batched_mm"  # noqa: SLF001  (the default counts tokens with an operator ONNX lacks)
    return model(config), True


def _configure(transformers: Any, arguments: dict[str, Any]) -> Any:
    """Nested configurations are mappings that name their own ``config``."""
    arguments = dict(arguments)
    kind = getattr(transformers, arguments.pop("config"))
    arguments.pop("attention", None)
    nested = {
        key: _configure(transformers, value) if isinstance(value, dict) and "config" in value else value
        for key, value in arguments.items()
    }
    return kind(**nested)


def _hand(entry: Entry) -> tuple[nn.Module, bool]:
    from tools.zoo import networks

    return getattr(networks, str(entry.arguments["class"]))(), False


class DetectionParts(nn.Module):
    """The learned parts of a detector without proposals: backbone, heads on all levels, and heads on regions.

    The finest level, resized, stands in for the pooled regions, so that one graph holds all weights.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, H, W] to all raw scores and offsets."""
        detector: Any = self.detector
        features = detector.backbone(images)
        levels = list(features.values()) if isinstance(features, dict) else [features]
        if not hasattr(detector, "rpn"):
            return list(_flat(detector.head(levels)))
        made = [*_flat(detector.rpn.head(levels))]
        heads = detector.roi_heads
        regions = functional.interpolate(levels[0], size=(7, 7))
        made.extend(_flat(heads.box_predictor(heads.box_head(regions))))
        if heads.mask_head is not None:
            made.extend(_flat(heads.mask_predictor(heads.mask_head(regions))))
        if heads.keypoint_head is not None:
            made.extend(_flat(heads.keypoint_predictor(heads.keypoint_head(regions))))
        return made


BUILDERS: dict[str, Callable[[Entry], tuple[nn.Module, bool]]] = {
    "torchvision": _torchvision,
    "segmentation": _segmentation,
    "detection": _detection,
    "flow": _flow,
    "vgg": _vgg,
    "regnet": _regnet,
    "convnext": _convnext,
    "mvit": _mvit,
    "class": _class,
    "timm": _timm,
    "transformers": _transformers,
    "hand": _hand,
}
