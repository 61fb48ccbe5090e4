"""One file for each sub-command of `hf-asr`: `add_arguments(parser)` and `run(args)`.

`cli` imports only the file of the command that runs. Where a package of an extra is missing, `console` names the extra.
"""
