"""Merging models of one pretraining by what each of them learnt since: its weights less the pretrained ones."""

from onnxmerge.merging.task_vectors.add import add_task_vectors, memory_taken
from onnxmerge.merging.task_vectors.method import TaskVectorMethod
from onnxmerge.merging.task_vectors.methods import TASK_VECTORS
from onnxmerge.merging.task_vectors.options import ParameterRule, Scaled
from onnxmerge.merging.task_vectors.vectors import TaskVectors

__all__ = [
    "TASK_VECTORS",
    "ParameterRule",
    "Scaled",
    "TaskVectorMethod",
    "TaskVectors",
    "add_task_vectors",
    "memory_taken",
]
