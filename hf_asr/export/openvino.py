"""Convert an ONNX graph to OpenVINO's own format, for Intel's processors."""

from pathlib import Path

from ..runtime.openvino import import_openvino


def convert(source: Path, path: Path) -> None:
    """Write `path` (.xml) and its weights beside it (.bin), float32.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    openvino = import_openvino()
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
