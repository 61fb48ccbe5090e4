"""Write ONNX files in float32; float16 is the export of a model that `graphs.half_precision` converted."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxscript  # noqa: F401  (PyTorch's exporter needs it; imported here so that its absence shows at once)
import torch

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
    inputs = config.generate_dummy_inputs()
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in config.inputs.items()}
    with warnings.catch_warnings(), torch.no_grad(), _explicit_attention(model):
        warnings.simplefilter("ignore")
        for name in ("torch.onnx", "onnxscript"):  # they log operators that this export does not use
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            config.GRAPH_CLASS(model.eval(), extractor).eval(),
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


@contextlib.contextmanager
def _explicit_attention(model: ConformerForCTC) -> Iterator[None]:
    """Let the model compute attention by its own operators: of a fused kernel, ONNX makes ten more in each layer."""
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _name_axes(proto: onnx.ModelProto, axes: dict[str, dict[int, str]]) -> None:
    """Give the dynamic axes readable names; PyTorch calls them s17 and the like."""
    for value in [*proto.graph.input, *proto.graph.output]:
        for place, name in axes[value.name].items():
            value.type.tensor_type.shape.dim[place].dim_param = name
