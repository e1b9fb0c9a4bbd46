"""Where parents part: the longest prefix that all of them compute alike, and the tensors that it hands on.

Nodes with one number are computed alike in all networks (see ``model.structure``), so a trunk is a set of numbers that
holds the numbers of everything its nodes read. Its *border* are the values that tails, or outputs, read of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import onnx_ir as ir

from onnxmerge.activations.segments import blocked
from onnxmerge.errors import UsageError
from onnxmerge.model.quantised import reads_quantised
from onnxmerge.model.restored import is_restored
from onnxmerge.model.signature import operands
from onnxmerge.model.structure import Structure, compares_by_value, passes_on, sources
from onnxmerge.model.traits import has

NEAR = 3
"""So many similar names are shown where one is unknown."""

Key = tuple[int, int]
"""What a value is in every network: the number of its node, and which of the node's outputs it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """Where networks are cut.

    ``values[m][key]`` are the border values of network m, ``trunks[m]`` and ``tails[m]`` its nodes on either side;
    nodes that only copy a value, or compute from weights alone, are in no trunk.

    ``joint`` maps an output's place to its key: outputs that the trunk makes, at the same place in all networks.
    ``names[m]`` has the key of each tensor of network m that is a border value, or one that is computed once more from
    the very same values: a tail may read either.
    """

    values: tuple[Mapping[Key, ir.Value], ...]
    trunks: tuple[frozenset[ir.Node], ...]
    tails: tuple[frozenset[ir.Node], ...]
    joint: Mapping[int, Key]
    names: tuple[Mapping[str, Key], ...]


def common_numbers(structures: Sequence[Structure]) -> set[int]:
    """The numbers of nodes that every network has."""
    return set.intersection(*(set(each.numbers.values()) for each in structures))


def numbers_of(first: Structure, names: Sequence[str]) -> set[int]:
    """The numbers of the named nodes (see ``numbers_until``)."""
    return {first.numbers[node] for node in _named(first, names)}


def numbers_until(first: Structure, names: Sequence[str]) -> set[int]:
    """The numbers of the named nodes and of all that they depend on.

    A name is that of a node of the first network, or of a tensor that one makes. Raises UsageError for another.
    """
    found: set[ir.Node] = set()
    pending = _named(first, names)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            makers = (value.producer() for value in operands(node))
            pending.extend(maker for maker in makers if maker is not None and maker.graph is first.network.graph)
    return {first.numbers[node] for node in found}


def _named(first: Structure, names: Sequence[str]) -> list[ir.Node]:
    graph = first.network.graph
    copies = sources(graph)
    makers = {
        node: copies.get(node.outputs[0], node.outputs[0]).producer() if passes_on(node) else node for node in graph
    }
    nodes = {str(value.name): maker for node, maker in makers.items() if maker for value in node.outputs if value.name}
    nodes.update((str(node.name), maker) for node, maker in makers.items() if maker)
    unknown = [name for name in names if name not in nodes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], nodes, n=NEAR, cutoff=0.4) or list(nodes)[-NEAR:]
        raise UsageError(
            f"--until {unknown[0]}: {first.network.label} has no node or tensor of that name; "
            f"names like it are {', '.join(near)}"
        )
    return [nodes[name] for name in names]


def numbers_before_last_layers(first: Structure) -> set[int]:
    """The numbers of nodes that do not depend on the last linear layers: those with no linear layer behind them.

    Raises UsageError where there is no linear layer.
    """
    graph = first.network.graph
    layers = {node for node in graph if _is_linear(node)}
    if not layers:
        raise UsageError(
            f"--heads separate: {first.network.label} has no linear layer before which heads could begin; "
            "name the last node to merge with --until"
        )
    leading: set[ir.Node | None] = set()
    for node in reversed(graph):
        if node in leading or node in layers:
            leading.update(value.producer() for value in operands(node))
    behind = blocked(graph, layers - leading)
    return {first.numbers[node] for node in graph if node not in behind}


def _is_linear(node: ir.Node) -> bool:
    """Whether a node multiplies an activation by a matrix that comes from initializers alone."""
    if not has(node, "linear_layer") or len(node.inputs) < 2:
        return False
    pending, seen = [node.inputs[1]], set()
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        maker = value.producer()
        if maker is not None:
            pending.extend(operands(maker))
        elif not value.is_initializer():
            return False
    return True


def cut_at(structures: Sequence[Structure], allowed: Collection[int]) -> Border:
    """Cut every network behind the nodes whose numbers are in ``allowed`` and in all networks.

    A border value must be the only one of its kind in the trunk of each network, or nothing would tell which tail reads
    which; where it is not (or where another network computes it inside a branch), its node is left to the tails.
    """
    numbers = common_numbers(structures) & set(allowed)
    while True:
        trunks = [_trunk(structure, numbers) for structure in structures]
        joint = _joint(structures, trunks)
        tails = [_tail(structure, trunk, joint) for structure, trunk in zip(structures, trunks, strict=True)]
        keys = dict.fromkeys((*joint.values(), *(key for _, read in tails for key in read)))
        counts = [_kinds(structure, trunk) for structure, trunk in zip(structures, trunks, strict=True)]
        ambiguous = {number for number, _ in keys if any(count.get(number) != 1 for count in counts)}
        if not ambiguous:
            break
        numbers -= ambiguous
    values = [
        {key: _value(structure, trunk, key) for key in keys}
        for structure, trunk in zip(structures, trunks, strict=True)
    ]
    names = [
        {str(value.name): key for key, value in _outputs(structure, trunk) if key in keys}
        for structure, trunk in zip(structures, trunks, strict=True)
    ]
    nodes = (tuple(map(frozenset, trunks)), tuple(frozenset(nodes) for nodes, _ in tails))
    return Border(tuple(values), *nodes, joint, tuple(names))


def learned_nodes(nodes: Iterable[ir.Node]) -> int:
    """How many of the nodes read a learned initializer of more than one number."""
    return sum(any(map(_is_learned, operands(node), repeat(node))) for node in nodes)


def _is_learned(value: ir.Value, reader: ir.Node) -> bool:
    tensor = value.const_value
    if not value.is_initializer() or tensor is None or tensor.size <= 1 or compares_by_value(value, reader):
        return False
    return tensor.dtype.is_floating_point() or reads_quantised(reader) or is_restored(value)


def _trunk(structure: Structure, numbers: Collection[int]) -> dict[ir.Node, None]:
    """The nodes of the main graph with one of the numbers, as far as all they read is among them.

    Without those that only copy a value, or compute from weights alone: they go with whoever reads them.
    """
    graph = structure.network.graph
    fed, behind = set(graph.inputs), set[ir.Node]()
    found: dict[ir.Node, None] = {}
    copies = sources(graph)
    for node in graph:
        read = [copies.get(value, value) for value in operands(node)]
        if structure.numbers[node] not in numbers or any(value.producer() in behind for value in read):
            behind.add(node)
        if not fed.isdisjoint(read):
            fed.update(node.outputs)
            if node not in behind and not passes_on(node):
                found[node] = None
    return found


def _tail(
    structure: Structure, trunk: Collection[ir.Node], joint: Collection[int]
) -> tuple[dict[ir.Node, None], list[Key]]:
    """What the network's own outputs need besides the trunk, and the keys of the trunk's values that this reads."""
    nodes: dict[ir.Node, None] = {}
    read: dict[ir.Value, None] = {}
    pending = [value for place, value in enumerate(structure.network.graph.outputs) if place not in joint]
    while pending:
        value = pending.pop()
        maker = value.producer()
        if maker in trunk:
            read[value] = None
        elif maker is not None and maker not in nodes:
            nodes[maker] = None
            pending.extend(operands(maker))
    order = {node: index for index, node in enumerate(trunk)}
    keys = sorted(
        (order[maker], value.index() or 0, maker) for value in read if (maker := value.producer()) is not None
    )
    return nodes, [(structure.numbers[maker], index) for _, index, maker in keys]


def _kinds(structure: Structure, trunk: Collection[ir.Node]) -> dict[int, int]:
    """For each number, how many different things its nodes compute: those that read the very same values are one."""
    table: dict[object, int] = {}
    same: dict[ir.Value, tuple[int, int]] = {}
    kinds: dict[int, set[int]] = {}
    for node in trunk:
        reads = tuple(_identity(value, node, same) for value in structure.operands[node])
        if structure.signatures[node].commutative:
            reads = tuple(sorted(reads))
        kind = table.setdefault((structure.numbers[node], reads), len(table))
        kinds.setdefault(structure.numbers[node], set()).add(kind)
        same.update((value, (kind, index)) for index, value in enumerate(node.outputs))
    return {number: len(found) for number, found in kinds.items()}


def _identity(value: ir.Value | None, reader: ir.Node, same: Mapping[ir.Value, Key]) -> Key:
    """What tells a value apart from others of its network that are computed alike."""
    if value is None or compares_by_value(value, reader):
        return (-1, 0)
    return same.get(value, (-1, id(value)))


def _joint(structures: Sequence[Structure], trunks: Sequence[Collection[ir.Node]]) -> dict[int, Key]:
    found: dict[int, Key] = {}
    for place, outputs in enumerate(zip(*(each.network.graph.outputs for each in structures), strict=False)):
        keys = {
            (structure.numbers[maker], value.index() or 0) if (maker := value.producer()) in trunk else None
            for structure, trunk, value in zip(structures, trunks, outputs, strict=True)
        }
        if len(keys) == 1 and (key := keys.pop()) is not None:
            found[place] = key
    return found


def _value(structure: Structure, trunk: Collection[ir.Node], key: Key) -> ir.Value:
    return next(value for found, value in _outputs(structure, trunk) if found == key)


def _outputs(structure: Structure, trunk: Collection[ir.Node]) -> Iterator[tuple[Key, ir.Value]]:
    for node in trunk:
        yield from (((structure.numbers[node], index), value) for index, value in enumerate(node.outputs))
