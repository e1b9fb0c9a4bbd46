"""Pair networks up by structure, and give all of them the first one's names.

Names and the order of nodes never matter, nor do Identity nodes, Dropout outside training, or the order of operands
where an operator does not care. See ``structure`` for what is compared and ``difference`` for how a refusal reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxmerge.errors import AdapterError, InputError, StructureError
from onnxmerge.model.difference import adapter_difference, difference, show
from onnxmerge.model.network import ModelSet, Network, Weights
from onnxmerge.model.structure import (
    Numbering,
    Operand,
    Structure,
    analyse,
    compares_by_value,
    passes_on,
    sources,
)
from onnxmerge.model.transposes import folded, unfolded

Site = tuple[ir.Node | None, int]
"""Where a value is read: a node and the number of its operand, or None and the number of a graph output."""


def pair(networks: Sequence[Network]) -> ModelSet:
    """Pair networks of one structure up.

    An initializer that several nodes of the first network read, but not the same ones in all networks, becomes
    several in the template (exporters store equal tensors once); so does one that is uniform in every network, such
    as the ones and zeros of fresh normalisation layers. What all networks share stays shared. A single network is
    untied in the same way.

    Where a tensor that one network reads as it is and transposed is two tensors in another, they are one in the set if
    they are equal in every network, and else two.

    Raises:
        StructureError: structures differ; the message names the first differing node of each and how it differs.
        InputError: no network was given.

    """
    if not networks:
        raise InputError("no networks to pair up; give at least one model")
    try:
        return _paired(networks)
    except AdapterError:
        raise
    except StructureError:
        plain = [folded(network) for network in networks]
        if not any(folds for _, folds in plain):
            raise
        try:
            found = _paired([network for network, _ in plain])
        except StructureError:
            found = None
        if found is None:
            raise
    return replace(unfolded(found, networks[0], plain[0][1]), sources=tuple(networks))


def _paired(networks: Sequence[Network]) -> ModelSet:
    """Pair networks up as they are."""
    numbering = Numbering()
    first = networks[0]
    template = Network(path=first.path, model=first.model.clone(), sha256=first.sha256)
    ours = analyse(template, numbering)
    matches = []
    for network in networks[1:]:
        theirs = analyse(network, numbering)
        reason = difference(ours, theirs)
        if reason is not None:
            adapters = adapter_difference(ours, theirs)
            if adapters is not None:
                raise AdapterError(f"{ours.network.label} and {theirs.network.label} have {adapters}")
            raise _refusal(ours, theirs, reason)
        matches.append(_Match(ours, theirs).run())
    weights = _untie(ours, matches)
    return ModelSet(template=template, weights=weights, sources=tuple(networks))


def _refusal(ours: Structure, theirs: Structure, reason: str) -> StructureError:
    return StructureError(f"{ours.network.label} and {theirs.network.label} differ in structure: {reason}")


@dataclass
class _Match:
    """Which value of the second network stands at each site of the first."""

    first: Structure
    second: Structure
    sites: dict[Site, ir.Value] = field(default_factory=dict)
    bound: dict[ir.Node, ir.Node] = field(default_factory=dict)

    def run(self) -> _Match:
        """Walk both networks from the outputs in step. Linear, but for networks that compute things twice."""
        pending: list[tuple[Site, ir.Value, ir.Value]] = [
            ((None, slot), ours, theirs)
            for slot, (ours, theirs) in enumerate(zip(self.first.outputs, self.second.outputs, strict=True))
        ]
        seen: set[tuple[ir.Node, ir.Node]] = set()
        limit = 4 * (len(self.first.nodes) + len(self.second.nodes)) + 1000
        while pending:
            site, ours, theirs = pending.pop()
            one, other = ours.producer(), theirs.producer()
            if one is None or other is None:
                self._bind(site, ours, theirs)
                continue
            if (one, other) in seen:
                continue
            seen.add((one, other))
            if len(seen) > limit:
                raise _refusal(self.first, self.second, f"{show(one)} has many counterparts, such as {show(other)}")
            self.bound.setdefault(one, other)
            reads = self._aligned(one, other)
            for slot, (a, b) in reversed(list(enumerate(zip(self.first.operands[one], reads, strict=True)))):
                if a is not None and b is not None:
                    pending.append(((one, slot), a, b))
        return self

    def _bind(self, site: Site, ours: ir.Value, theirs: ir.Value) -> None:
        """Note an initializer; one site may stand for two of them only where they are equal."""
        if ours.const_value is None or theirs.const_value is None:
            return
        known = self.sites.setdefault(site, theirs)
        if known is theirs or _equal(known, theirs):
            return
        where = show(site[0]) if site[0] is not None else f"output {site[1]}"
        raise _refusal(
            self.first,
            self.second,
            f"{where} uses {ours.name!r} where the other computes twice, with {known.name!r} and {theirs.name!r}",
        )

    def _aligned(self, one: ir.Node, other: ir.Node) -> Sequence[Operand]:
        """The second node's operands in the order of the first's."""
        reads = self.second.operands[other]
        if not self.first.signatures[one].commutative:
            return reads
        numbers, found = self.first.operand_numbers[one], self.second.operand_numbers[other]
        left = list(range(len(reads)))
        chosen: dict[int, int] = {}
        # Those whose counterpart is already known, or told by what becomes of it, choose before the others.
        wishes = sorted(
            ((self._affinity(self.first.operands[one][i], reads[j]), i == j, -i, -j))
            for i in left
            for j in left
            if numbers[i] == found[j]
        )
        taken: set[int] = set()
        for _, _, minus_i, minus_j in reversed(wishes):
            if -minus_i not in chosen and -minus_j not in taken:
                chosen[-minus_i] = -minus_j
                taken.add(-minus_j)
        return [reads[chosen[i]] for i in left]

    def _affinity(self, ours: Operand, theirs: Operand) -> int:
        one = ours.producer() if ours is not None else None
        other = theirs.producer() if theirs is not None else None
        if one is None or other is None:
            return 0
        if one in self.bound:
            return 2 if self.bound[one] is other else -1
        return int(self.first.contexts[one] == self.second.contexts[other])


def _equal(one: ir.Value, other: ir.Value) -> bool:
    """Whether two initializers of one type and shape hold the same bytes."""
    if one.const_value is None or other.const_value is None:
        return False
    tensors = Weights({"one": one.const_value, "other": other.const_value})
    return bool(np.array_equal(tensors["one"], tensors["other"]))


@dataclass(frozen=True, slots=True)
class _Alike:
    """Which counterparts of one initializer of the template stand for all that are equal to them."""

    known: dict[tuple[ir.Value, int], list[ir.Value]] = field(default_factory=dict)

    def __call__(self, value: ir.Value, place: int, other: ir.Value) -> ir.Value:
        """The first counterpart in a network that holds the same: what one network stores twice, equal, is one."""
        seen = self.known.setdefault((value, place), [])
        found = next((each for each in seen if each is other or _equal(each, other)), None)
        if found is None:
            seen.append(other)
        return other if found is None else found


def _uniform(value: ir.Value) -> bool:
    """Whether an initializer holds one number everywhere."""
    if value.const_value is None:
        return False
    array = Weights({"value": value.const_value})["value"]
    return array.size > 0 and bool((array == array.reshape(-1)[0]).all())


def _untie(ours: Structure, matches: Sequence[_Match]) -> tuple[Weights, ...]:
    """Give the template an initializer for each set of counterparts; the weights of all networks under its names."""
    graph = ours.network.graph
    tied: dict[ir.Value, dict[tuple[ir.Value, ...], list[Site]]] = {}
    counterparts: dict[ir.Value, tuple[ir.Value, ...]] = {}
    alike = _Alike()
    for site, value in _weight_sites(ours):
        others = tuple(alike(value, place, match.sites[site]) for place, match in enumerate(matches))
        if compares_by_value(value, site[0]):
            counterparts.setdefault(value, others)
        else:
            tied.setdefault(value, {}).setdefault(others, []).append(site)
    names = {value.name for node in graph.all_nodes() for value in node.outputs}
    names |= {
        value.name for inner in (graph, *graph.subgraphs()) for value in (*inner.inputs, *inner.initializers.values())
    }
    for value, groups in tied.items():
        parts = [(others, sites) for others, group in groups.items() for sites in _split(value, others, group)]
        counterparts[value] = parts[0][0]
        for others, sites in parts[1:]:
            clone = _clone(value, sites, names)
            graph.register_initializer(clone)
            counterparts[clone] = others
            for node, slot in sites:
                if node is not None:
                    node.replace_input_with(slot, clone)
    _drop_copies(ours)
    # What only a Dropout reads has no effect and hence no counterpart.
    for value in graph.initializers.values():
        counterparts.setdefault(value, (value,) * len(matches))
    kept = {value: others for value, others in counterparts.items() if value.is_initializer()}
    return tuple(
        Weights({str(value.name): _tensor((value, *others)[index]) for value, others in kept.items()})
        for index in range(len(matches) + 1)
    )


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise InputError(f"initializer {value.name!r} has no data; export the model again")
    return value.const_value


def _weight_sites(ours: Structure) -> list[tuple[Site, ir.Value]]:
    """All places where an initializer is read, in topological order."""
    found: list[tuple[Site, ir.Value]] = [
        ((node, slot), value)
        for node in ours.nodes
        if not passes_on(node)
        for slot, value in enumerate(ours.operands[node])
        if value is not None and value.const_value is not None and value.producer() is None
    ]
    found.extend(
        ((None, slot), value)
        for slot, value in enumerate(ours.outputs)
        if value.const_value is not None and value.producer() is None
    )
    return found


def _split(value: ir.Value, others: tuple[ir.Value, ...], sites: list[Site]) -> list[list[Site]]:
    """Sites that share one initializer in every network: kept together, unless it is uniform in every network."""
    size = value.const_value.size if value.const_value is not None else 0
    if len(sites) == 1 or size == 1 or any(node is None for node, _ in sites):
        return [sites]
    return [[site] for site in sites] if all(map(_uniform, (value, *others))) else [sites]


def _clone(value: ir.Value, sites: list[Site], names: set[str | None]) -> ir.Value:
    """A copy of an initializer under a fresh name: that of the Identity which the sites read, where there is one."""
    node, slot = sites[0]
    read = node.inputs[slot] if node is not None and slot < len(node.inputs) else None
    stem = read.name if read is not None and read is not value else value.name
    fresh, number = f"{stem}", 0
    copied = read is not None and read is not value and len(read.uses()) == len(sites) and not read.is_graph_output()
    while not copied and fresh in names:
        number += 1
        fresh = f"{stem}_{number}"
    names.add(fresh)
    return ir.Value(name=fresh, type=value.type, shape=value.shape, const_value=value.const_value)


def _drop_copies(ours: Structure) -> None:
    """Read initializers directly: an Identity between them and a node is the exporter's way to store a tensor once."""
    copies = sources(ours.nodes)
    for node in ours.nodes:
        for slot, value in enumerate(node.inputs):
            origin = copies.get(value) if value is not None else None
            if origin is not None and origin.producer() is None and origin.const_value is not None:
                node.replace_input_with(slot, origin)
    passes.RemoveUnusedNodesPass()(ours.network.model)
