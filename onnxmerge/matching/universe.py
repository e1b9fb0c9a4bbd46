"""A universe of units that no model owns: every model m has permutations P_m to it.

Of model q to model m it is P_q followed by the inverse of P_m, so that matchings are consistent along every cycle of
models, by construction. How alike all models are in it is the sum over pairs, as in C2M3 (Crisostomi et al., NeurIPS
2024, arXiv 2405.17897).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxmerge.matching.objective import ModelSimilarity, measure
from onnxmerge.matching.problem import GroupProblem
from onnxmerge.matching.similarity import ActivationSimilarity, Objective, PairOfModels, problem_of
from onnxmerge.matching.sweeps import Sweeps
from onnxmerge.units.groups import Group, Occurrence, Plan
from onnxmerge.units.permutations import Permutations, block_content, compose, identity, invert

Universe: TypeAlias = tuple[Permutations, ...]
"""For each model the permutations that bring it to the universe."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelsToJoin:
    """What there is to compare: weights of all models, and how their activations correlate.

    ``activations`` has the units of all models on both sides, model after model; ``alphas`` as in PairOfModels.
    """

    plan: Plan
    weights: Sequence[Mapping[str, NDArray[Any]]]
    activations: ActivationSimilarity
    alphas: Mapping[str, float]
    objective: Objective = "correlation"

    @property
    def all(self) -> range:
        return range(len(self.weights))

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(self.all, 2))

    def pair(self, one: int, other: int) -> PairOfModels:
        """Two of the models."""
        seen = {}
        for name, similarity in self.activations.items():
            units = len(similarity) // len(self.weights)
            seen[name] = similarity[one * units : (one + 1) * units, other * units : (other + 1) * units]
        return PairOfModels(self.plan, self.weights[one], self.weights[other], seen, self.alphas, self.objective)


def relative(universe: Universe, one: int, other: int, plan: Plan) -> Permutations:
    """The permutations that bring model ``other`` to model ``one``."""
    return compose(universe[other], invert(universe[one], plan.spaces), plan.spaces)


def model_similarity(models: ModelsToJoin, universe: Universe) -> ModelSimilarity:
    """All pairs of models compared: their objectives added up, and the mean of their mean similarities."""
    found = [measure(models.pair(*pair), relative(universe, *pair, models.plan)) for pair in models.pairs]
    means = {name: float(np.mean([each.mean[name] for each in found])) for name in found[0].mean}
    return ModelSimilarity(sum(each.total for each in found), means)


def first_universe(models: ModelsToJoin, found: Mapping[tuple[int, int], Sweeps[Permutations]]) -> Universe:
    """The units of the model that is most similar to all others; each pair was matched by itself, as ``found`` says."""
    totals = [sum(each.similarity.total for pair, each in found.items() if model in pair) for model in models.all]
    centre = int(np.argmax(totals))
    spaces = models.plan.spaces
    return tuple(
        identity(spaces)
        if model == centre
        else found[centre, model].matching
        if centre < model
        else invert(found[model, centre].matching, spaces)
        for model in models.all
    )


def problem_of_pair(models: ModelsToJoin, group: Group, universe: Universe, one: int, other: int) -> GroupProblem:
    """Two models' units of a group, each in its own order, compared with all other groups in the universe."""
    spaces = models.plan.spaces

    def content(model: int, occurrence: Occurrence) -> NDArray[Any]:
        layout = occurrence.layout
        array = models.weights[model][layout.name]
        return block_content(array, layout, occurrence.block, spaces, universe[model], occurrence.moved)

    return problem_of(models.pair(one, other), group, lambda each: (content(one, each), content(other, each)))
