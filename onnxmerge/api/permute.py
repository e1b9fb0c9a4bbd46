"""``permute``: a random member of a model's symmetry group, which computes the same function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onnxmerge.model.interface import declare_ranks
from onnxmerge.model.network import Network
from onnxmerge.model.publication import Publication
from onnxmerge.model.sample import SampleInput
from onnxmerge.pipeline.prepare import ModelSource, load, require, sample_from, type_models
from onnxmerge.pipeline.publish import Source, save_apart, sources
from onnxmerge.validation.certificate import Certificate, permute_network
from onnxmerge.validation.coverage import Coverage, coverage
from onnxmerge.version import __version__


@dataclass(frozen=True, slots=True)
class PermutedModel:
    """The permuted weights (computed when read), and the certificate that they compute the same function."""

    network: Network
    weights: Mapping[str, NDArray[Any]]
    seed: int
    certificate: Certificate
    coverage: Coverage
    read: tuple[Source, ...] = ()

    def save(self, path: str | os.PathLike[str], *, together: Publication | None = None) -> Path:
        """Write the permuted model, whole or not at all.

        With ``together`` it appears when that is published. Raises InputError where it cannot be written, UsageError
        where ``path`` is the model that was permuted.
        """
        metadata = {
            "onnxmerge.version": __version__,
            "onnxmerge.permuted_from": self.network.sha256,
            "onnxmerge.seed": str(self.seed),
        }
        return save_apart(self.network, self.weights, path, metadata, self.read, together)


def permute(
    model: ModelSource,
    *,
    seed: int = 0,
    inputs: Mapping[str, SampleInput] | None = None,
    operators: Path | None = None,
    provider: str = "cpu",
) -> PermutedModel:
    """Apply a random permutation to every group of a model. See ``inspect`` for the arguments.

    Raises:
        InputError: the model cannot be read, or does not run.
        ValidationError: the certificate failed.

    """
    models = load([model])
    prepared = type_models(models, sample_from(models.template, inputs), operators)
    certificate = prepared.certify(0, seed=seed, provider=provider)
    require(certificate, models.template.label)
    weights = permute_network(models.template, prepared.typing, seed)
    sample = prepared.trace.sample
    declare_ranks(models.template.graph, {**sample, **prepared.trace.exposed.answers({}, sample)})
    read = sources("the model itself", model, model=True)
    share = coverage(models.weights[0], prepared.typing)
    return PermutedModel(models.template, weights, seed, certificate, share, read)
