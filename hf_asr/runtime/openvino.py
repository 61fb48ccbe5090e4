"""Run a graph with OpenVINO, on Intel processors (`pip install 'hf_asr[openvino]'`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Input:
    """An input of a graph, as onnxruntime describes it."""

    name: str


class OpenVinoSession:
    """An OpenVINO model with the methods of onnxruntime's session that the export check calls."""

    def __init__(self, path: Path):
        openvino = import_openvino()
        # Without the hint, OpenVINO computes in bf16 on processors that can.
        self.model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def get_inputs(self) -> list[Input]:
        return [Input(value.get_any_name()) for value in self.model.inputs]

    def get_providers(self) -> list[str]:
        return ["OpenVINO CPU"]

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        return list(self.model(inputs).values())


def import_openvino():
    """Return the package `openvino`.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError("OpenVINO is not installed: pip install 'hf_asr[openvino]'") from error
    return openvino
