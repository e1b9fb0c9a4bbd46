"""What models are called beside one another."""

from __future__ import annotations

import pytest

from onnxmerge.model.paths import short_names


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((), ()),
        (("/x/a.onnx",), ("a.onnx",)),
        (("/x/a.onnx", "/x/b.onnx"), ("a.onnx", "b.onnx")),
        (("/x/a.onnx", "/y/a.onnx"), ("x/a.onnx", "y/a.onnx")),
        (("/x/a.onnx", "/x/c/a.onnx"), ("a.onnx", "c/a.onnx")),
        (("/x/1/w/m.onnx", "/x/2/w/m.onnx", "/x/2/n.onnx"), ("1/w/m.onnx", "2/w/m.onnx", "n.onnx")),
        (("/x/a.onnx", "/x/a.onnx"), ("a.onnx", "a.onnx")),
        (("model 'a/b'", "/x/b"), ("model 'a/b'", "b")),
    ],
)
def test_no_more_than_tells_them_apart(labels: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert short_names(labels) == names
