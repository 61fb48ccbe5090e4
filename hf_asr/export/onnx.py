"""Write ONNX files in float32 and int8; float16 is the export of a model that `graphs.half_precision` converted."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxscript  # noqa: F401  (PyTorch's exporter needs it; imported here so that its absence shows at once)
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from ..model import ConformerFeatureExtractor, ConformerForCTC
from .graphs import exporter_config

OPSET = 18  # supported by the runtimes on phones


def export_onnx(
    model: ConformerForCTC,
    extractor: ConformerFeatureExtractor,
    path: Path,
    *,
    exporter: str = "onnx",
) -> None:
    """Write a graph with dynamic batch size and length.

    Args:
        exporter: Kind of graph: a key of `graphs.EXPORTERS`.
    """
    config = exporter_config(model, exporter)
    module = config.GRAPH_CLASS(model.eval(), extractor).eval()
    inputs = config.generate_dummy_inputs()
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in config.inputs.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "onnxscript"):  # they log operators that this export does not use
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(config.inputs),
            output_names=list(config.outputs),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    proto = program.model_proto
    _name_axes(proto, config.inputs | config.outputs)
    for key, value in config.metadata.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, path)


def _name_axes(proto: onnx.ModelProto, axes: dict[str, dict[int, str]]) -> None:
    """Give the dynamic axes readable names; PyTorch calls them s17 and the like."""
    for value in [*proto.graph.input, *proto.graph.output]:
        for place, name in axes[value.name].items():
            value.type.tensor_type.shape.dim[place].dim_param = name


def quantize_int8(source: Path, path: Path, *, calibration: Sequence[dict[str, np.ndarray]] | None = None) -> None:
    """Quantise matrix products with weights to int8, per channel; attention and convolutions stay in float32.

    Args:
        source: The float32 graph.
        path: Where the int8 graph is written.
        calibration: Inputs of the graph, on which the ranges of activations are measured (static quantisation).
            Without them, each call scales activations by its own content (dynamic quantisation).
    """
    options = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Merges nodes and infers the shapes that quantisation needs.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        options["nodes_to_exclude"] = _frontend_products(prepared)
        if calibration is None:
            quantize_dynamic(prepared, path, **options)
        else:
            quantize_static(
                prepared,
                path,
                _Calibration(calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                extra_options={"MatMulConstBOnly": True},
                **options,
            )


def _frontend_products(path: Path) -> list[str]:
    """Return the names of the matrix products before the first convolution.

    These are the mel filters. Their inputs are energies that span ten orders of magnitude, which int8 cannot represent.
    """
    nodes = list(onnx.load(path).graph.node)
    first = next(place for place, node in enumerate(nodes) if node.op_type == "Conv")
    return [node.name for node in nodes[:first] if node.op_type in ("MatMul", "Gemm")]


class _Calibration(CalibrationDataReader):
    """Hands the calibration inputs to onnxruntime, one by one."""

    def __init__(self, inputs: Sequence[dict[str, np.ndarray]]):
        self.inputs: Iterator[dict[str, np.ndarray]] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.inputs, None)
