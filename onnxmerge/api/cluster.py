"""Where the work of a merge is done: in this process, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnxmerge.errors import UsageError
from onnxmerge.executor import HERE, Executor
from onnxmerge.model.runtimes import available
from onnxmerge.model.runtimes.onnx_runtime import ON_GPU
from onnxmerge.pipeline.store import environment


@contextmanager
def executor_on(cluster: str | None, worker_cpus: int, provider: str) -> Iterator[Executor]:
    """What runs independent pieces of work while the block lasts.

    Raises:
        UsageError: the address or the number of cores is none, Ray is not installed, or there is no such provider.
        InputError: the cluster cannot be used.

    """
    if worker_cpus < 1:
        raise UsageError(f"--worker-cpus: expected a number of 1 or more, found {worker_cpus}")
    if cluster is None:
        if worker_cpus != 1:
            raise UsageError("--worker-cpus is for --cluster; leave it out")
        yield HERE
        return
    from onnxmerge.cluster.ray_cluster import ray_cluster  # Ray takes seconds to import

    gpu = available(provider) in ON_GPU
    with ray_cluster(cluster, cpus=worker_cpus, gpu=gpu, environment=environment) as executor:
        yield executor
