"""A network to look into: any of its tensors, under any weights, by one session for as long as it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxmerge.model.network import Network
from onnxmerge.model.runtimes import available
from onnxmerge.model.session import Session, fitting, inputs_of, open_session, wide
from onnxmerge.model.stretches import Values, arrays, feedable, is_large, may_change, run_by_stretches
from onnxmerge.model.traits import has
from onnxmerge.types import Array


class Exposed:
    """Runs a network under any weights, and gives any tensors of its main graph.

    All of these are outputs of its session and all weights are inputs, so that it is opened once and holds no weights;
    on a device, whose memory would hold all outputs until the end of a run, once for each choice of tensors. A network
    that draws random numbers is opened for each run of versions, so that all of them draw the same. A large network is
    run by stretches.

    ``outputs_alone``: as on a device, for many samples, and with operators fused.
    """

    def __init__(self, network: Network, *, outputs_alone: bool = False) -> None:
        self.network, self.large = network, is_large(network.model)
        self.outputs_alone = outputs_alone
        self.computed = dict.fromkeys(str(value.name) for node in network.graph for value in node.outputs if value.name)
        weights = [value for value in network.graph.initializers.values() if may_change(value)]
        self._random = any(has(node, "random") for node in network.model.graph.all_nodes())
        self._fed = [str(value.name) for value in weights] if all(map(feedable, weights)) and not self._random else []
        self._sessions: dict[tuple[str, tuple[str, ...]], Session] = {}

    def runs(
        self,
        versions: Sequence[Mapping[str, Array]],
        feeds: Sequence[Mapping[str, Array]],
        names: Sequence[str],
        *,
        provider: str = "cpu",
    ) -> Iterator[tuple[int, list[Values]]]:
        """Run every version on every feed: (number of the feed, for each version the tensors ``names``).

        ``versions`` are weights in place of the network's own. Of a large network tensors come by and by: a feed comes
        with each stretch.

        Raises:
            InputError: the network is not accepted, or does not run on the feeds.
            ResourceError: it takes more memory or time than it may.

        """
        if self.large:
            yield from run_by_stretches(self.network.model, versions, feeds, names, provider=provider)
            return
        made = [name for name in names if name in self.computed]
        opened = [self._opened(version, made, provider) for version in versions]
        inputs, own = inputs_of(self.network.model), self.network.weights
        weights = [{name: wide(version.get(name, own.get(name))) for name in own} for version in versions]
        for number, feed in enumerate(feeds):
            given = fitting(inputs, feed, self.network.label)
            found = []
            for session, fed in zip(opened, weights, strict=True):
                known = {**fed, **given}
                computed = session.values({name: known[name] for name in session.inputs}, made) if session else {}
                found.append({name: computed[name] if name in computed else known[name] for name in names})
            yield number, found

    def answers(
        self, weights: Mapping[str, Array], feed: Mapping[str, Array], *, provider: str = "cpu"
    ) -> dict[str, Array]:
        """Its outputs for a feed, those that are tensors, in their order."""
        return self.each_answer(weights, [feed], provider=provider)[0]

    def each_answer(
        self, weights: Mapping[str, Array], feeds: Sequence[Mapping[str, Array]], *, provider: str = "cpu"
    ) -> list[dict[str, Array]]:
        """The same for each of several feeds; weights that are computed when read are read once."""
        names = [str(value.name) for value in self.network.graph.outputs]
        found: list[dict[str, Array]] = [{} for _ in feeds]
        for number, (values,) in self.runs([weights], feeds, names, provider=provider):
            found[number] |= arrays(values)
        return [{name: own[name] for name in names if name in own} for own in found]

    def _opened(self, version: Mapping[str, Array], made: Sequence[str], provider: str) -> Session | None:
        """The session for the tensors ``made`` on a provider, or one of the version's own that cannot be shared."""
        if not made:
            return None
        place = available(provider)
        alone = self.outputs_alone
        outputs = tuple(self.computed if place == "cpu" and not alone else made)
        shared = bool(self._fed or not version) and not self._random
        if shared and (place, outputs) in self._sessions:
            return self._sessions[place, outputs]
        weights = {} if self._fed else version
        opened = open_session(
            self.network.model, weights=weights, outputs=outputs, provider=place, fed=self._fed, optimise=alone
        )
        if shared:
            self._sessions[place, outputs] = opened
        return opened
