"""Merging models of one pretraining by what each of them learnt since: its weights less the pretrained ones."""

from onnxmerge.merging.task_vectors.methods import TASK_VECTORS, TaskVectorMethod
from onnxmerge.merging.task_vectors.vectors import Settings, TaskVectors, add_task_vectors

__all__ = ["TASK_VECTORS", "Settings", "TaskVectorMethod", "TaskVectors", "add_task_vectors"]
