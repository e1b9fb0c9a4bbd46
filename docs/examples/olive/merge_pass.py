"""A merge as a pass of Olive: its input model and others, by onnxmerge, into one."""

from __future__ import annotations

from typing import Any

from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import onnxmerge


class MergeModels(Pass):
    """Merge the input model with others of its structure; it comes first and gives names and opset."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:  # noqa: ARG003 - Olive's interface
        return {
            "models": PassConfigParam(type_=list[str], required=True, description="the other models' paths"),
            "calibration": PassConfigParam(type_=str, default_value=None, description="unlabelled data, or none"),
            "settings": PassConfigParam(
                type_=dict[str, Any], default_value={}, description="further arguments of onnxmerge.merge"
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        models = [model.model_path, *config.models]
        result = onnxmerge.merge(models, calibration=config.calibration, **config.settings)
        return ONNXModelHandler(model_path=str(result.save(resolve_onnx_path(output_model_path))))
