"""The stage that makes a merge ready to be trained further (``--export-for-training``; see ``model.training``)."""

from __future__ import annotations

from dataclasses import replace

from onnxmerge.merging.repair.plan import applies
from onnxmerge.model.training import Roles, declaring_moments, roles_of
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.separation import MergedModel


def for_training(job: Job, product: MergedModel) -> tuple[MergedModel, Roles | None, tuple[str, ...]]:
    """The merged network as training takes it, the roles of its tensors, and notes; as it is where nobody asked."""
    if not job.options.export_for_training:
        return product, None, ()
    notes, models = [], job.prepared.models
    roles = roles_of(models, product.weights)
    if not roles.learned:
        notes.append("the parents are equal in every tensor, so none is told as learned: name those to train yourself")
    if applies(models.template.graph, job.prepared.typing):
        notes.append(
            f"{models.template.label}: its layers look as if BatchNorm had been folded into them, and is gone for "
            "training; where there was one, export the parents with BatchNorm kept"
        )
    return replace(product, network=declaring_moments(product.network)), roles, tuple(notes)
