"""`optimum-cli export hf-asr`: where optimum looks for sub-commands of other packages. No __init__.py here: PEP 420."""

import importlib.util
import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class HfAsrExportCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(name="hf-asr", help="Export a Conformer of hf_asr (ONNX, sherpa-onnx, TensorRT, OpenVINO).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        # optimum-cli asks every command for its arguments, whichever is run: this file alone, since the package around
        # it imports PyTorch, which takes seconds.
        package = Path(importlib.util.find_spec("hf_asr").origin).parent
        spec = importlib.util.spec_from_file_location("hf_asr_arguments", package / "export" / "arguments.py")
        arguments = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(arguments)
        arguments.add_arguments(parser)

    def run(self) -> None:
        try:
            from hf_asr.export.run import run
        except ModuleNotFoundError as error:
            sys.exit(f"error: {error.name} is not installed: pip install 'hf_asr[export]'")
        run(self.args)


REGISTER_COMMANDS = [(HfAsrExportCommand, ExportCommand)]
