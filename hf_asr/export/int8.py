"""Write int8 versions of ONNX files."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


def quantize_int8(source: Path, path: Path, *, calibration: Sequence[dict[str, np.ndarray]] | None = None) -> None:
    """Quantise matrix products with weights to int8, per channel; attention and depthwise convolutions stay in float32.

    The subsampling's second convolution is quantised as the matrix product that it is: onnxruntime has no fast int8
    convolution with dynamic ranges on a CPU.

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
        proto = onnx.load(prepared)
        convolutions_to_products(proto.graph)
        onnx.save(proto, prepared)
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


def convolutions_to_products(graph: onnx.GraphProto) -> None:
    """Replace 2-D convolutions of several channels, without padding or groups, by matrix products, in place.

    The product multiplies the channels of all cells of the kernel side by side, (batch, time, frequency, cells *
    channels), with a weight (cells * channels, output channels).
    """
    weights, nodes = {weight.name: weight for weight in graph.initializer}, []
    for node in graph.node:
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        weight = numpy_helper.to_array(weights[node.input[1]]) if node.op_type == "Conv" else np.zeros(0)
        is_plain = options.get("group", 1) == 1 and not any(options.get("pads", ())) and len(node.input) == 3
        if weight.ndim != 4 or weight.shape[1] == 1 or weight[0, 0].size == 1 or not is_plain:
            nodes.append(node)
            continue
        nodes += _product(graph, node, weight, strides=options.get("strides", [1, 1]))
    del graph.node[:]
    graph.node.extend(nodes)


def _product(
    graph: onnx.GraphProto, node: onnx.NodeProto, weight: np.ndarray, *, strides: Sequence[int]
) -> list[onnx.NodeProto]:
    """Return the nodes that replace a convolution of this weight (output channels, channels, height, width)."""
    height, width = weight.shape[2:]
    name, last, nodes, cells = node.name, np.iinfo(np.int64).max, [], []

    def constant(part: str, values: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), f"{name}_{part}"))
        return f"{name}_{part}"

    def add(kind: str, inputs: list[str], part: str, **options: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}_{part}"], name=f"{name}_{part}", **options))
        return f"{name}_{part}"

    source = add("Transpose", [node.input[0]], "channels_last", perm=[0, 2, 3, 1])
    axes, steps = constant("axes", [1, 2]), constant("steps", np.asarray(strides))
    for row, column in itertools.product(range(height), range(width)):
        starts = constant(f"starts_{row}_{column}", [row, column])
        ends = constant(f"ends_{row}_{column}", [row + 1 - height or last, column + 1 - width or last])
        cells.append(add("Slice", [source, starts, ends, axes, steps], f"cell_{row}_{column}"))
    patches = add("Concat", cells, "patches", axis=-1)
    matrix = constant("matrix", weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)))
    product = add("Add", [add("MatMul", [patches, matrix], "product"), node.input[2]], "sum")
    nodes.append(
        helper.make_node("Transpose", [product], node.output, name=f"{name}_channels_first", perm=[0, 3, 1, 2])
    )
    return nodes


class _Calibration(CalibrationDataReader):
    """Hands the calibration inputs to onnxruntime, one by one."""

    def __init__(self, inputs: Sequence[dict[str, np.ndarray]]):
        self.inputs: Iterator[dict[str, np.ndarray]] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.inputs, None)
