"""Cut parents at their border: trunks that pair up, and what each parent keeps for itself."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_ir.passes import common as passes

from onnxmerge.errors import StructureError, UsageError
from onnxmerge.heads.border import (
    Border,
    common_numbers,
    cut_at,
    learned_nodes,
    numbers_before_last_layers,
    numbers_of,
    numbers_until,
)
from onnxmerge.model.difference import difference
from onnxmerge.model.network import ModelSet, Network
from onnxmerge.model.pair import pair
from onnxmerge.model.structure import Numbering, Structure, analyse

LONGEST = 32
"""File stems of more characters are not put into names."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What one parent keeps: the nodes named in ``tail`` of its ``network``, with their weights.

    ``border`` maps each tensor of its trunk that is read there to the trunk's name for it. ``outputs`` are the names
    that the parent's outputs get in the merged model, None for one that the shared trunk makes. ``tag`` is what
    everything of this head is named by.
    """

    network: Network
    tail: frozenset[str]
    border: Mapping[str, str]
    outputs: tuple[str | None, ...]
    tag: str


@dataclass(frozen=True, slots=True, eq=False)
class Separation:
    """Parents cut at one border. ``trunks`` pair up: their outputs are the border, then joint outputs of the parents.

    ``joint`` are the names of those outputs that stay joint.
    """

    trunks: ModelSet
    heads: tuple[Head, ...]
    joint: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of nodes with learned weights that are merged, in the model that keeps most for itself."""
        merged = learned_nodes(self.trunks.template.graph)
        return min(merged / max(learned_nodes(head.network.graph), 1) for head in self.heads)


def separate(networks: Sequence[Network], until: Sequence[str] = ()) -> Separation:
    """Cut networks behind the nodes named ``until``, or where they part, or before their last linear layers.

    Raises:
        StructureError: there is nothing to share, or the trunks do not pair up.
        UsageError: a name of ``until`` is unknown, or leaves nothing to the heads.

    """
    numbering = Numbering()
    structures = [analyse(network, numbering) for network in networks]
    first = structures[0]
    parting = next(filter(None, (difference(first, other) for other in structures[1:])), None)
    if parting is None:
        structures = [_by_context(each, numbering) for each in structures]
        first = structures[0]
    allowed = common_numbers(structures)
    notes: tuple[str, ...] = ()
    if until:
        wanted = numbers_until(first, until)
        if parting is not None and not wanted <= allowed:
            raise StructureError(f"--until {', '.join(until)}: not all models have what comes before it: {parting}")
        allowed = wanted
    elif parting is None:
        allowed = numbers_before_last_layers(first)
    else:
        notes = (f"structures part, heads begin there: {parting}",)
    border = cut_at(structures, allowed)
    if until and not any(border.tails):
        raise UsageError(f"--until {', '.join(until)}: leaves nothing to the heads; leave it out to merge everything")
    if until and not numbers_of(first, until) <= {first.numbers[node] for node in border.trunks[0]}:
        raise StructureError(
            f"--until {', '.join(until)}: nothing tells its results apart from others that are computed alike; "
            "name a node before or behind it"
        )
    labels = f"{first.network.label} and {', '.join(each.network.label for each in structures[1:])}"
    if parting is not None and not any(border.tails):
        raise StructureError(f"{labels} differ in structure: {parting}")
    trunks = [_trunk(network, border, index) for index, network in enumerate(networks)]
    if not learned_nodes(trunks[0].graph):
        why = parting or "no learned weight comes before the border"
        raise StructureError(f"{labels} have no trunk in common: {why}")
    paired = pair(trunks)
    names = list(border.values[0])
    joint = {str(border.values[0][key].name) for key in border.joint.values()}
    free = frozenset(str(border.values[0][key].name) for key in names) - joint
    return Separation(replace(paired, border=free), _heads(networks, border), tuple(sorted(joint)), notes)


def _by_context(structure: Structure, numbering: Numbering) -> Structure:
    """The structure with twins told apart by what becomes of their results, where all networks are alike in that."""
    numbers = {node: numbering["site", structure.numbers[node], structure.contexts[node]] for node in structure.nodes}
    return replace(structure, numbers=numbers)


def _trunk(network: Network, border: Border, index: int) -> Network:
    """The network with its border for outputs. Its inputs stay as they are."""
    model = network.model.clone()
    known = {str(value.name): value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [known[str(value.name)] for value in border.values[index].values()]
    joint = {*border.joint.values()}
    for key, value in zip(border.values[index], model.graph.outputs, strict=True):
        if key not in joint:  # what exporters note of tensors inside is a matter of taste
            value.shape = None
            value.type = None
    passes.RemoveUnusedNodesPass()(model)
    return Network(network.path, model, network.sha256)


def _heads(networks: Sequence[Network], border: Border) -> tuple[Head, ...]:
    trunk_names = {key: str(value.name) for key, value in border.values[0].items()}
    alike = len({len(network.graph.outputs) for network in networks}) == 1
    heads = []
    for index, (network, tag) in enumerate(zip(networks, tags(networks), strict=True)):
        named = networks[0] if alike else network
        outputs = tuple(
            None if place in border.joint else f"{value.name}_{tag}" for place, value in enumerate(named.graph.outputs)
        )
        tail = frozenset(str(node.name) for node in border.tails[index])
        known = {name: trunk_names[key] for name, key in border.names[index].items()}
        heads.append(Head(network, tail, known, outputs, tag))
    return tuple(heads)


def tags(networks: Sequence[Network]) -> tuple[str, ...]:
    """A short name for each parent: its file's stem where all have distinct, plain ones, else a, b, c, ..."""
    stems = [network.path.stem if network.path is not None else "" for network in networks]
    plain = all(stem.isascii() and stem.isidentifier() and len(stem) <= LONGEST for stem in stems)
    if plain and len(set(stems)) == len(stems):
        return tuple(stems)
    return tuple(_letters(index) for index in range(len(networks)))


def _letters(index: int) -> str:
    """Letters as columns are counted: a to z, then aa, ab, ..."""
    rest, last = divmod(index, len(string.ascii_lowercase))
    return (_letters(rest - 1) if rest else "") + string.ascii_lowercase[last]
