"""The command `optimum-cli export hf-asr`.

optimum looks here for sub-commands of other packages. There is no __init__.py, because this is a namespace (PEP 420).
"""

import importlib.util
from argparse import ArgumentParser, Namespace
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class HfAsrExportCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(name="hf-asr", help="Export a Conformer of hf_asr (ONNX, sherpa-onnx, TensorRT, OpenVINO).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        # optimum-cli asks every command for its options, whichever runs. Importing hf_asr imports PyTorch, which takes
        # seconds, so this file is loaded by its path.
        package = Path(importlib.util.find_spec("hf_asr").origin).parent
        spec = importlib.util.spec_from_file_location("hf_asr_export_options", package / "commands" / "export.py")
        export = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(export)
        export.add_arguments(parser)

    def run(self) -> None:
        from hf_asr.arguments import with_home
        from hf_asr.commands import export
        from hf_asr.console import command

        with command():
            export.run(Namespace(**with_home(vars(self.args))))


REGISTER_COMMANDS = [(HfAsrExportCommand, ExportCommand)]
