"""The registry: what a method says of itself is what docs and checks of options have."""

from __future__ import annotations

import pytest

from onnxmerge.errors import UsageError
from onnxmerge.merging.task_vectors import TASK_VECTORS
from onnxmerge.pipeline.methods import OWN_OPTIONS
from onnxmerge.pipeline.options import merge_options


@pytest.mark.parametrize("name", TASK_VECTORS)
def test_an_option_is_taken_by_the_methods_that_have_it_alone(name: str) -> None:
    values = {"inner": "ties", "parameters": (), "epsilon": 0.1, "density": 0.3, "objective": "inner", "groups": ()}
    for option, own in OWN_OPTIONS.items():
        given = {option: values.get(option, 0.5)} | (
            {"inner": "ties"} if (name, option) == ("knots", "density") else {}
        )
        if name in own.takers:
            found = merge_options({"method": name, **given}).own_of(TASK_VECTORS[name])
            assert getattr(found, option) == given[option]
        else:
            told = rf"(method {name} does not|choose one \(--refine\))"
            said = f"{option.replace('_', '-')} is for .*{own.takers[0]}.*; {told}"
            with pytest.raises(UsageError, match=said):
                merge_options({"method": name, **given})


def test_an_option_of_one_name_is_one_option() -> None:
    told: dict[str, str] = {}
    for method in TASK_VECTORS.values():
        for name in method.option_names:
            told.setdefault(name, OWN_OPTIONS[name].described.help)
            assert told[name] == OWN_OPTIONS[name].described.help


def test_each_method_is_a_module_of_its_name() -> None:
    for name, method in TASK_VECTORS.items():
        assert method.rule.__module__.endswith(f".methods.{name.replace('-', '_')}")
        assert method.source
