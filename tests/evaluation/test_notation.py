"""Tasks in one line each."""

from __future__ import annotations

import pytest

from onnxmerge.errors import UsageError
from onnxmerge.evaluation.notation import parse_task


def test_what_a_line_says() -> None:
    texts = ("low=0-2", "high=7,4-5@logits_b", "all=@y", "depth=regression@depth")
    low, high, everything, depth = map(parse_task, texts)
    assert (low.name, low.row_of, low.output) == ("low", {0: 0, 1: 1, 2: 2}, None)
    assert (high.row_of, high.output) == ({7: 0, 4: 1, 5: 2}, "logits_b")
    assert (everything.row_of, everything.output) == (None, "y")
    assert (depth.kind, depth.output) == ("regression", "depth")


@pytest.mark.parametrize("value", ["low", "=1", "a=1,1", "a=3-1", "a=x", "a=1,,2", "a=-1"])
def test_tasks_that_cannot_be_read(value: str) -> None:
    with pytest.raises(UsageError, match=value):
        parse_task(value)
