"""Language models whose vocabularies differ, merged into one with one token list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_dynamic

from onnxmerge import StructureError, UsageError, merge, permute, plan
from tests.graphs import execute, initializers
from tests.vocabularies import LENGTH, ROWS, TIED, UNTIED, language_model, reworded, some_ids, words

A, B = range(12), [11, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14]
"""Tokens of two models in the order of their ids: they share nine."""
MERGED = [*A, 13, 14]


def weights_of(result: Any) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(result.weights[name]) for name in result.weights}


def parents() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return language_model(len(A), 0), language_model(len(B), 1)


@pytest.mark.parametrize("head", [UNTIED, TIED, ROWS], ids=["untied", "tied", "rows"])
@pytest.mark.parametrize("method", ["average", "rebasin", "weight-zip"])
def test_a_copy_with_its_tokens_in_another_order_gives_the_model_back(head: str, method: str) -> None:
    model = language_model(12, head=head)
    order = np.random.default_rng(1).permutation(12).tolist()
    result = merge(
        [model, reworded(model, order)], vocab=[words(range(12)), words(order)], method=method, repair="none"
    )
    own = initializers(model)
    for name, array in weights_of(result).items():
        if method == "weight-zip":  # which sums in another order
            assert np.allclose(array, own[name], atol=1e-6), name
        else:
            assert np.array_equal(array, own[name]), name
    assert result.report.vocabulary is not None
    assert result.report.vocabulary.lacking == (0, 0)


def test_units_in_another_order_are_found_as_well(tmp_path: Path) -> None:
    model = language_model(12)
    order = np.random.default_rng(1).permutation(12).tolist()
    onnx.save(reworded(model, order), tmp_path / "other.onnx")
    permute(tmp_path / "other.onnx", seed=3).save(tmp_path / "turned.onnx")
    result = merge([model, tmp_path / "turned.onnx"], vocab=[words(range(12)), words(order)], method="rebasin")
    for name, array in weights_of(result).items():
        assert np.array_equal(array, initializers(model)[name]), name


@pytest.mark.parametrize(("kept", "tokens"), [("union", MERGED), ("first", [*A])])
def test_a_token_is_the_mean_of_the_models_that_have_it(kept: str, tokens: list[int]) -> None:
    a, b = parents()
    given: dict[str, Any] = {"vocab": [words(A), words(B)], "merged_vocab": kept, "method": "average", "repair": "none"}
    result = merge([a, b], weights=(3.0, 1.0), **given)
    found, one, other = weights_of(result), initializers(a), initializers(b)
    assert result.vocabulary is not None
    assert result.vocabulary.tokens.tokens == tuple(words(tokens))
    for name, axis in (("table", 0), ("head", 1), ("bias", 0)):
        assert found[name].shape[axis] == len(tokens)
        for place, token in enumerate(tokens):
            shares = {model: share for model, own, share in ((0, A, 3), (1, B, 1)) if token in own}
            rows = {0: one[name].take([*A].index(token), axis) if token in A else None}
            rows[1] = other[name].take(B.index(token), axis) if token in B else None
            wanted = np.average([rows[model] for model in shares], axis=0, weights=[*shares.values()])
            assert np.allclose(found[name].take(place, axis), wanted, atol=1e-6), (name, token)


WAYS: Mapping[str, dict[str, Any]] = {
    "matched": {"method": "mudsc-align"},
    "repaired": {"method": "rebasin", "repair": "repair"},
    "least squares": {"method": "rebasin", "refine": "ls"},
    "regmean": {"method": "average", "refine": "regmean"},
    "ensemble": {"method": "act-align", "answer": "ensemble", "outputs": "logits"},
    "task vectors": {"method": "soup"},
    "by default": {"effort": "fast"},
}


@pytest.mark.parametrize("way", WAYS)
def test_no_row_that_was_made_up_gets_into_the_merge(way: str) -> None:
    """Units of the first model stay where they are, so rows that it alone has are its own, bit by bit."""
    a, b = parents()
    how: dict[str, Any] = {"vocab": [words(A), words(B)], "calibration": some_ids(len(MERGED)), **WAYS[way]}
    result = merge([a, b], **how)
    found, one, other = weights_of(result), initializers(a), initializers(b)
    alone = [token for token in A if token not in B]
    for name, axis in (("table", 0), ("head", 1), ("bias", 0)):
        assert np.array_equal(found[name].take(alone, axis), one[name].take(alone, axis)), name
        ours = np.sort(found[name].take([MERGED.index(each) for each in (13, 14)], axis), axis=None)
        assert np.array_equal(ours, np.sort(other[name].take([B.index(each) for each in (13, 14)], axis), axis=None))


@pytest.mark.parametrize(
    "how",
    [{"effort": "fast"}, {"method": "act-align", "answer": "ensemble", "outputs": "logits", "repair": "none"}],
    ids=["by default", "act-align"],
)
def test_a_head_over_tokens_that_not_all_have_keeps_one_scale(how: dict[str, Any]) -> None:
    """Solved for the ensemble, shared tokens would be log-probabilities beside raw logits of tokens of one model."""
    a, b = parents()
    given: dict[str, Any] = {"vocab": [words(A), words(B)], "calibration": some_ids(len(MERGED)), **how}
    result = merge([a, b], **given)
    found, one, other = weights_of(result), initializers(a), initializers(b)
    shared = [token for token in A if token in B]
    wanted = (one["bias"][shared] + other["bias"][[B.index(token) for token in shared]]) / 2
    if "method" in how:
        assert np.allclose(found["bias"][shared], wanted, atol=1e-6)
    assert not result.report.answers
    assert any("not solved for the ensemble" in note for note in result.report.notes)


@pytest.mark.parametrize("method", ["ties", "task-arithmetic"])
def test_rows_of_the_base_are_put_into_fine_tunes_that_stand_in_its_order(tmp_path: Path, method: str) -> None:
    base, rng = language_model(40, 7), np.random.default_rng(2)

    def tuned(tokens: int) -> onnx.ModelProto:
        found = reworded(base, range(tokens))
        for item in found.graph.initializer:
            array = onnx.numpy_helper.to_array(item)
            noise = (0.01 * rng.standard_normal(array.shape)).astype(np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(array + noise, item.name))
        found.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = tokens
        return found

    one, other = tuned(40), tuned(25)
    onnx.save(other, tmp_path / "plain.onnx")
    permute(tmp_path / "plain.onnx", seed=3).save(tmp_path / "turned.onnx")
    lists = [words(range(count)) for count in (40, 25, 40)]
    plain, turned = (
        weights_of(merge([one, tmp_path / f"{name}.onnx"], base=base, vocab=lists, method=method))
        for name in ("plain", "turned")
    )
    for name, array in plain.items():
        assert np.allclose(turned[name], array, atol=1e-6), name


def test_three_models_of_other_heads_and_tokens(tmp_path: Path) -> None:
    lists = [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 9, 10, 11], [11, 0, 12, 1, 6, 5]]
    models = [language_model(len(own), seed, TIED) for seed, own in enumerate(lists)]
    merged = merge(models, vocab=[words(own) for own in lists], method="rebasin")
    merged.save(tmp_path / "m.onnx")
    tokens = (tmp_path / "m.vocab.txt").read_text().split()
    assert tokens == words([0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12])
    given = execute(onnx.load(tmp_path / "m.onnx"), {"ids": np.array([[0, 5, 10, 9, 2]])})
    assert given["logits"].shape == (1, LENGTH, len(tokens))
    found = initializers(onnx.load(tmp_path / "m.onnx"))["table"]
    assert np.array_equal(found[2], initializers(models[0])["table"][2])


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "tsv-m"])
def test_fine_tunes_of_a_base_learnt_nothing_of_tokens_that_they_lack(method: str) -> None:
    """Tokens that all have come as if no model had any other, and tokens of one fine-tune are its own."""
    base = language_model(10, 7)
    rng = np.random.default_rng(2)

    def tuned(order: list[int], new: int) -> onnx.ModelProto:
        """A fine-tune that has some of the base's tokens, and new ones."""
        start = initializers(reworded(base, order))
        found = language_model(len(order) + new, 8)
        for item in found.graph.initializer:
            array = onnx.numpy_helper.to_array(item).copy()
            own = start[item.name]
            array[tuple(slice(size) for size in own.shape)] = own
            array += (0.01 * rng.standard_normal(array.shape)).astype(np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
        return found

    a, b = tuned([*range(10)], 1), tuned([3, 2, 1, 0, 5, 4, 7, 6], 0)
    lists = [words([*range(10), 20]), words([3, 2, 1, 0, 5, 4, 7, 6]), words(range(10))]
    result = merge([a, b], base=base, vocab=lists, method=method)
    found, one = weights_of(result), initializers(a)
    for name, axis in (("table", 0), ("head", 1), ("bias", 0)):
        for token in (8, 9, 10):
            assert np.array_equal(found[name].take(token, axis), one[name].take(token, axis)), (name, token)
        assert np.isfinite(found[name]).all()
    with pytest.raises(UsageError, match="and that of the base behind them; found 2"):
        merge([a, b], base=base, vocab=lists[:2], method=method)


def test_a_plan_and_the_recipe_of_the_file_say_which_tokens() -> None:
    a, b = parents()
    planned = plan([a, b], vocab=[words(A), words(B)], method="rebasin")
    assert planned.vocabulary is not None
    assert (planned.vocabulary.tokens, planned.vocabulary.rows) == (len(MERGED), (len(A), len(B)))
    assert planned.vocabulary.lacking == (2, 3)
    recipes = [
        merge([a, b], vocab=lists, method="average").report.recipe
        for lists in ([words(A), words(B)], [words(A), words([*B[:-1], 99])], [words(A), words(B)])
    ]
    assert recipes[0] == recipes[2] != recipes[1]


def test_models_whose_vocabularies_differ_are_told_of_the_option() -> None:
    a, b = parents()
    with pytest.raises(
        StructureError, match=r"their vocabularies differ \(12 rows of 'table' against 11 .*\(--vocab\)"
    ):
        merge([a, b])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vocab": [words(A)]}, "of each of the 2 models; found 1; give --vocab once for each"),
        ({"merged_vocab": "first"}, "give each model's"),
        ({"vocab": [words(A), words(B)], "heads": "separate"}, "leave --heads separate and --until out"),
        ({"vocab": [words(A), words(B)], "until": ("n",)}, "leave --heads separate and --until out"),
    ],
)
def test_options_that_do_not_go_with_token_lists(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        merge([*parents()], **settings)


def test_quantised_models_are_merged_as_floats(tmp_path: Path) -> None:
    for name, model in zip("ab", parents(), strict=True):
        onnx.save(model, tmp_path / f"{name}.onnx")
        quantize_dynamic(tmp_path / f"{name}.onnx", tmp_path / f"{name}q.onnx")
    given: dict[str, Any] = {"vocab": [words(A), words(B)], "method": "average"}
    files = [tmp_path / "aq.onnx", tmp_path / "bq.onnx"]
    with pytest.raises(UsageError, match="has another vocabulary cannot be quantised as that was"):
        merge(files, **given)
    merged = merge(files, output_type="float", **given)
    assert any(array.shape[:1] == (len(MERGED),) for array in weights_of(merged).values())


def test_other_differences_are_refused_as_ever() -> None:
    a, b = language_model(12), language_model(11, width=6)
    for vocab in (None, [words(A), words(B)]):
        with pytest.raises(StructureError, match=r"their widths differ \(8 numbers in a row of 'table' against 6 in"):
            merge([a, b], vocab=vocab)
