"""PyTorch to ONNX files, in float32, float16 or int8."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxscript  # noqa: F401  (PyTorch's exporter is written in it; where it is missing, that shows at once)
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

OPSET = 18  # what the runtimes on phones know


def export_onnx(
    model: ConformerForCTC,
    extractor: ConformerFeatureExtractor,
    path: Path,
    *,
    exporter: str = "onnx",
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes one of `graphs.EXPORTERS` to `path`, with dynamic batch and time; `metadata` goes into the file."""
    config = exporter_config(model, exporter)
    module = config.GRAPH_CLASS(model.eval(), extractor).eval()
    inputs = config.generate_dummy_inputs()
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in config.inputs.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "onnxscript"):  # which tell of operators that nobody asked for
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
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, path)


def _name_axes(proto: onnx.ModelProto, axes: dict[str, dict[int, str]]) -> None:
    """Readable names for the dynamic axes, which PyTorch calls s17 and the like."""
    for value in [*proto.graph.input, *proto.graph.output]:
        for place, name in axes[value.name].items():
            value.type.tensor_type.shape.dim[place].dim_param = name


def quantize_int8(source: Path, path: Path, *, calibration: Sequence[dict[str, np.ndarray]] | None = None) -> None:
    """Matrix products of weights in int8, per channel; attention and convolutions stay as they are.

    Activations are quantised by what each call holds, or, with `calibration`, inputs of the graph, by ranges found in
    those (static).
    """
    options = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Merges what the exporter left in pieces, and infers the shapes that quantisation asks for.
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
    """Matrix products before the first convolution: the mel filters, over powers that span ten decades."""
    nodes = list(onnx.load(path).graph.node)
    first = next(place for place, node in enumerate(nodes) if node.op_type == "Conv")
    return [node.name for node in nodes[:first] if node.op_type in ("MatMul", "Gemm")]


class _Calibration(CalibrationDataReader):
    def __init__(self, inputs: Sequence[dict[str, np.ndarray]]):
        self.inputs: Iterator[dict[str, np.ndarray]] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.inputs, None)
