"""Convert an ONNX graph to OpenVINO's format, for Intel processors."""

from pathlib import Path

from ..runtime.openvino import import_openvino


def convert(source: Path, path: Path) -> None:
    """Write `path` (.xml) and its float32 weights (.bin, in the same folder).

    Raises:
        ImportError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
