"""How well a merged network reproduces its parents: what they answer, and the features that they answer from.

A mean of answers to different tasks is nobody's answer, so each parent is compared by itself, on its own features in
the merged network's units, and the results are averaged. For a merged network's rows x and a parent's rows y, with
means m_x and m_y and all units pooled, outputs are compared by Lin's concordance (Biometrics 45, 1989)

    2 cov(x, y) / (var x + var y + |m_x - m_y|^2):

the correlation, less what is lost by a variance that collapsed and by a mean that moved. Features inside the network
are read by weights that may absorb a factor c, so they are compared at the best one, which gives both one length:

    max over c of the concordance of c x with y = cov(x, y) / (|x| |y| - m_x m_y),        |x|^2 = E x^2.

That is their cosine, corrected for the cosine of different samples: crowding around the mean earns nothing. Both are 1
for an equal network, about 0 for an unrelated one.

Outputs that are directions are compared as who reads them does, by cosines with vectors
that lie where the parent's own answers lie: rows of length one, weighed by the parent's covariance C, so that x and y
become x L and y L with L L^T = C.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxmerge.errors import InputError
from onnxmerge.merging.closed_form.consensus import lengths
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.linear_layers import LinearLayer, linear_layers
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.session import open_session
from onnxmerge.model.variants import variants
from onnxmerge.types import Arrays, Rows
from onnxmerge.units.alignment import axis_orders, zip_orders
from onnxmerge.units.layout import Typing
from onnxmerge.units.zips import Matchings, Zipped

ROWS = 16_384
"""Positions (pixels, tokens) of a feature that are compared, evenly over all batches."""


class NothingToCompareError(InputError):
    """The network has no tensor in which a merged model could be compared with its parents."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A tensor to compare, its units along ``axis``. An ``answer`` is an output, to be reproduced to scale."""

    tensor: str
    axis: int
    answer: bool


def last_features(graph: ir.Graph, typing: Typing) -> tuple[Feature, ...]:
    """The float outputs of a network, and what the last linear layer before each of them reads."""
    layers = {layer.output: layer for layer in linear_layers(graph)[0]}
    found: dict[str, Feature] = {}
    for value in graph.outputs:
        layer, source = _last_layer(value, layers)
        if (value.dtype is None or value.dtype.is_floating_point()) and value.name in typing.activations:
            same = layer is not None and _rank(typing, layer.output) == _rank(typing, str(value.name))
            axis = layer.channel_axis if layer is not None and same else -1
            if _rank(typing, str(value.name)):
                axis = _moving_axis(typing, str(value.name), axis)
                found[str(value.name)] = Feature(str(value.name), axis, answer=True)
        if layer is not None and source is not None and source.name in typing.activations:
            found.setdefault(str(source.name), Feature(str(source.name), layer.channel_axis, answer=False))
    if not found:
        raise NothingToCompareError(
            "the network has no float output and no linear layer right before one; nothing can be compared"
        )
    return tuple(found.values())


def _last_layer(
    value: ir.Value | None, layers: Mapping[str, LinearLayer]
) -> tuple[LinearLayer | None, ir.Value | None]:
    """The linear layer whose output reaches ``value`` through operators of one operand, and what it reads."""
    while value is not None:
        layer = layers.get(str(value.name))
        producer = value.producer()
        if layer is not None:
            while producer is not None and str(producer.name) != layer.node:
                producer = next(
                    (made for each in producer.inputs if each is not None and (made := each.producer())), None
                )
            return layer, None if producer is None else producer.inputs[0]
        operands = [] if producer is None else [each for each in producer.inputs if _computed(each)]
        value = operands[0] if len(operands) == 1 else None
    return None, None


def _computed(value: ir.Value | None) -> bool:
    return value is not None and not value.is_initializer() and value.const_value is None


def _moving_axis(typing: Typing, tensor: str, otherwise: int) -> int:
    """The one axis along which free units stand; ``otherwise`` where there is none, or that is it, or several are.

    Those of a network's own outputs are fixed; those that heads read behind a trunk are free.
    """
    layout = typing.activations[tensor]
    moving = {
        axis
        for block in layout.blocks
        for axis, own in enumerate(block.axes)
        if any(typing.spaces[space].free for space in own.spaces)
    }
    return otherwise if len(moving) != 1 or otherwise % len(layout.shape) in moving else moving.pop()


def _rank(typing: Typing, tensor: str) -> int:
    return len(typing.activations[tensor].shape)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What parents answered on ``feeds``: ``rows[m][tensor]`` [positions, units] of ``features`` that are outputs."""

    features: tuple[Feature, ...]
    feeds: tuple[Arrays, ...]
    rows: tuple[Mapping[str, Rows], ...]
    provider: str

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for rows in self.rows for array in rows.values())


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The parents' features on data kept to judge by: ``rows[m][tensor]`` [positions, units].

    ``readers[m][tensor]`` [units, units] is the L of an output that is a direction. ``network`` is the graph that the
    merged weights belong to, the parents' own or the same with groups of other widths.
    """

    network: Network
    typing: Typing
    features: tuple[Feature, ...]
    feeds: tuple[Arrays, ...]
    rows: tuple[Mapping[str, Rows], ...]
    readers: tuple[Mapping[str, Rows], ...]
    provider: str

    @property
    def answers(self) -> Answers:
        """What of it are outputs."""
        return answers_of(self.features, self.feeds, self.rows, self.provider)

    def rows_of(self, weights: Arrays, changes: Sequence[Arrays] = ({},)) -> list[dict[str, Rows]]:
        """The features of the merged network with these weights, for each of ``changes`` to them."""
        return features_of(self.network, weights, self.features, self.feeds, self.provider, changes)

    def compare(self, merged: Mapping[str, Rows], matchings: Matchings) -> float:
        """Mean agreement of the merged network's features with its parents', over features and parents; at most 1."""
        scores = []
        for feature in self.features:
            for parent, own in enumerate(self.rows):
                aligned = self._aligned(feature, merged[feature.tensor], own[feature.tensor], parent, matchings)
                reader = self.readers[parent].get(feature.tensor)
                if aligned is not None and reader is not None:
                    aligned = _unit(aligned[0]) @ reader, _unit(aligned[1]) @ reader
                if aligned is not None:
                    scores.append(agreement(*aligned, to_scale=feature.answer))
        if not scores:
            raise NothingToCompareError(
                "no feature before the outputs can be aligned unit by unit; nothing can be compared"
            )
        return float(np.mean(scores))

    def _aligned(
        self, feature: Feature, merged: Rows, own: Rows, parent: int, matchings: Matchings
    ) -> tuple[Rows, Rows] | None:
        """Merged and own rows in the same units; None where these do not lie along one axis.

        A matching says where each merged unit comes from, a zip what became of each unit of the parent.
        """
        zips = isinstance(matchings, Zipped)
        layout = self.typing.activations[feature.tensor]
        if isinstance(matchings, Zipped):
            orders = zip_orders(layout, self.typing, matchings, parent)
        else:
            orders = axis_orders(layout, self.typing, [{}, *matchings][parent])
        if orders is None or set(orders) - {feature.axis % len(layout.shape)}:
            return None
        order = next(iter(orders.values()), None)
        if order is None:
            return merged, own
        return (merged[:, order], own) if zips else (merged, own[:, order])


def reference(
    models: ModelSet,
    typing: Typing,
    feeds: Sequence[Arrays],
    provider: str,
    network: Network | None = None,
    directions: Collection[str] = (),
) -> Reference:
    """Run the parents on ``feeds``; ``network`` is the merged graph where it is not the parents' own.

    ``directions`` names the outputs of which only the direction counts.

    Raises InputError where there is nothing to compare.
    """
    features = last_features(models.template.graph, typing)
    rows = tuple(features_of(models.template, weights, features, feeds, provider)[0] for weights in models.weights)
    read = [feature.tensor for feature in features if feature.answer and feature.tensor in directions]
    readers = tuple({name: _reader(own[name]) for name in read} for own in rows)
    return Reference(network or models.template, typing, features, tuple(feeds), rows, readers, provider)


def answers_of(
    features: Sequence[Feature], feeds: Sequence[Arrays], rows: Sequence[Mapping[str, Rows]], provider: str
) -> Answers:
    """What of some features of all parents (see ``features_of``) are outputs."""
    answers = tuple(feature for feature in features if feature.answer)
    own = tuple({answer.tensor: each[answer.tensor] for answer in answers} for each in rows)
    return Answers(answers, tuple(feeds), own, provider)


def _reader(answers: Rows) -> Rows:
    """L [units, units] with L L^T the covariance of the directions of ``answers`` [positions, units]."""
    values, vectors = np.linalg.eigh(np.cov(_unit(answers), rowvar=False))
    found: Rows = (vectors * np.sqrt(np.maximum(values, 0.0))).astype(np.float32)
    return found


def _unit(rows: Rows) -> Rows:
    return rows / lengths(rows)


def features_of(
    network: Network,
    weights: Arrays,
    features: Sequence[Feature],
    feeds: Sequence[Arrays],
    provider: str,
    changes: Sequence[Arrays] = ({},),
) -> list[dict[str, Rows]]:
    """Rows [positions, units] of each feature of a network, for each of ``changes`` to its weights, in one pass.

    Many positions are thinned out evenly.
    """
    tensors = [feature.tensor for feature in features]
    every = variants(network.model, tensors, changes)
    if every is None:  # one by one
        return [features_of(network, Overlay(weights, own), features, feeds, provider)[0] for own in changes]
    wanted = dict.fromkeys(name for names in every.names for name in names.values())
    known = Overlay(weights, every.changed)
    session = open_session(every.model, weights=known, outputs=list(wanted), provider=provider, optimise=True)
    parts: list[dict[str, list[Rows]]] = [{name: [] for name in tensors} for _ in changes]
    for feed in feeds:
        results = session.run(dict(feed))
        for own, names in zip(parts, every.names, strict=True):
            for feature in features:
                own[feature.tensor].append(_thinned(results[names[feature.tensor]], feature.axis, len(feeds)))
    return [{name: np.concatenate(several) for name, several in own.items()} for own in parts]


def _thinned(array: NDArray[Any], axis: int, feeds: int) -> Rows:
    """The rows [positions, units] of one feed's tensor that are kept; a tensor of one axis has a number a sample."""
    units = array.reshape(-1, 1) if array.ndim == 1 else np.moveaxis(array, axis, -1)
    flat = units.reshape(-1, units.shape[-1])
    kept = -(-ROWS // feeds)
    step = max(-(-len(flat) // kept), 1) if units.ndim > 2 else 1
    return flat[::step].astype(np.float32)


def agreement(x: Rows, y: Rows, *, to_scale: bool) -> float:
    """Concordance of rows [n, units], as they are or (not ``to_scale``) at the best common factor of ``x``.

    1 for equal rows, 0 where either is constant; -1 at worst. Not finite where ``x`` is not.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    covariance = float(np.mean(np.sum((x - mean_x) * (y - mean_y), axis=1)))
    spread_x, spread_y = (float(each.var(axis=0).sum()) for each in (x, y))
    if to_scale:
        whole = (spread_x + spread_y + float(np.square(mean_x - mean_y).sum())) / 2
    else:
        sizes = [spread + float(np.square(mean).sum()) for spread, mean in ((spread_x, mean_x), (spread_y, mean_y))]
        whole = float(np.sqrt(sizes[0] * sizes[1]) - mean_x @ mean_y)
    return covariance / whole if whole != 0 else 0.0
