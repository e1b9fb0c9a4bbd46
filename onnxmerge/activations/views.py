"""What is measured in a run: views of activations, products between them, and what the outputs for these are called."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmerge.activations.columns import UnitColumns

POSITION_BUDGET = "onnxmerge.positions"
"""The extra graph input (int64 [1]): about how many rows a view may contribute in this run."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The units of one space as they stand in one activation (named as in the template)."""

    tensor: str
    columns: UnitColumns


@dataclass(frozen=True, slots=True)
class UnitProduct:
    """The sum over ``views`` (by index) of centred products, units of model i by units of model j."""

    key: str
    views: tuple[int, ...]
    pair: tuple[int, int]


def rows_output(view: int) -> str:
    """Name of the output with the number of rows (int64 scalar) of a view."""
    return f"onnxmerge.rows.{view}"


def mean_output(view: int, model: int) -> str:
    """Name of the output with the means (float32, units in order) of a view in a model."""
    return f"onnxmerge.mean.{view}.{model}"


def variance_output(view: int, model: int) -> str:
    """Name of the output with the variances (float32, units in order) of a view in a model, within this run."""
    return f"onnxmerge.variance.{view}.{model}"


def moments_outputs(tensor: str, model: int) -> tuple[str, str, str]:
    """Names of the outputs with the number of values of a tensor in a model, and mean and variance of each channel."""
    return (
        f"onnxmerge.size.{tensor}.{model}",
        f"onnxmerge.means.{tensor}.{model}",
        f"onnxmerge.variances.{tensor}.{model}",
    )


def product_output(product: UnitProduct) -> str:
    """Name of the output with the products (float32 [units, units])."""
    return f"onnxmerge.product.{product.key}.{product.pair[0]}.{product.pair[1]}"
