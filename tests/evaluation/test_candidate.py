from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmerge.calibration.specs import InputSpec
from onnxmerge.errors import InputError
from onnxmerge.evaluation.candidate import free_batch, open_candidate, outputs_of
from onnxmerge.evaluation.task import Task
from onnxmerge.model.network import Network
from onnxmerge.model.read import read_network
from tests.graphs import build, normal

WEIGHTS: dict[str, Any] = normal(w=(3, 2), v=(3, 4))
ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def network(batch: str = "n", dtype: str = "float", *, one: bool = False) -> Network:
    both = f"({dtype}[{batch},2] a, {dtype}[{batch},4] b) {{ a = MatMul(x, w) b = MatMul(x, v) }}"
    single = f"({dtype}[{batch},2] a) {{ a = MatMul(x, w) }}"
    weights = {name: array.astype(np.float16 if dtype == "float16" else np.float32) for name, array in WEIGHTS.items()}
    chosen = {"w": weights["w"]} if one else weights
    return read_network(build(f"({dtype}[{batch},3] x) => {single if one else both}", chosen))


def test_tasks_name_their_outputs() -> None:
    tasks = [Task("s", output="b"), Task("t", output="a")]
    assert outputs_of(tasks, network()) == ("b", "a")


def test_a_single_output_answers_what_names_none_or_one_for_all() -> None:
    assert outputs_of([Task("s"), Task("t")], network(one=True)) == ("a", "a")
    assert outputs_of([Task("s", output="logits"), Task("t", output="logits")], network(one=True)) == ("a", "a")


def test_the_single_output_of_a_parent_answers_its_own_task() -> None:
    tasks = [Task("s", output="logits_a"), Task("t", output="logits_b")]
    assert outputs_of(tasks, network(one=True), learned=(1,)) == (None, "a")


def test_outputs_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"has outputs a, b; say which answers task 's' \(--task NAME=...@OUTPUT"):
        outputs_of([Task("s")], network())
    tasks = [Task("s", output="p"), Task("t", output="q")]
    with pytest.raises(InputError, match="has outputs a, b, none of those that tasks name: p, q"):
        outputs_of(tasks, network())
    with pytest.raises(InputError, match="task 't', which it learned, names 'q'"):
        outputs_of([Task("s", output="a"), Task("t", output="q")], network(), learned=(1,))


@pytest.mark.parametrize("batch", ["n", "1", "2", "7"])
def test_answers_do_not_depend_on_the_batch_that_the_model_takes(batch: str) -> None:
    tasks = [Task("s", output="b"), Task("t", output="a")]
    found = open_candidate(network(batch), tasks, provider="cpu").answers({"x": ROWS}, tasks)
    for answer, weight in zip(found, (WEIGHTS["v"], WEIGHTS["w"]), strict=True):
        assert answer is not None
        np.testing.assert_allclose(answer, ROWS @ weight, rtol=1e-5)


def test_inputs_of_another_name_and_type() -> None:
    tasks = [Task("s", output="b")]
    (found,) = open_candidate(network(dtype="float16"), tasks, provider="cpu").answers({"images": ROWS}, tasks)
    assert found is not None
    np.testing.assert_allclose(found, ROWS @ WEIGHTS["v"], atol=0.02)


def test_other_weights() -> None:
    tasks, twice = [Task("s", output="b")], {name: 2 * array for name, array in WEIGHTS.items()}
    (found,) = open_candidate(network(), tasks, weights=twice, provider="cpu").answers({"x": ROWS}, tasks)
    assert found is not None
    np.testing.assert_allclose(found, ROWS @ WEIGHTS["v"] * 2, rtol=1e-5)


def test_an_output_without_a_row_for_each_sample() -> None:
    model = build(
        "(float[n,3] x) => (float[m,3] y) { y = ReduceSum(x, axes) }",
        {"axes": np.array([0])},
        check=False,
    )
    tasks = [Task("s")]
    with pytest.raises(InputError, match=r"output 'y' is \[1, 3\] for 5 samples, expected a row for each"):
        open_candidate(read_network(model), tasks, provider="cpu").answers({"x": ROWS}, tasks)


def test_the_batch_is_freed_where_there_is_one() -> None:
    image, state = InputSpec("x", (4, 3), np.dtype(np.float32)), InputSpec("h", (2, 8), np.dtype(np.float32))
    assert free_batch([image]) == (InputSpec("x", (None, 3), np.dtype(np.float32)),)
    assert free_batch([image, state]) == (image, state)
