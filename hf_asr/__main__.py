"""The command `hf-asr` as `python -m hf_asr`, for where the folder of installed scripts is not in the PATH."""

from .cli import main

if __name__ == "__main__":
    main()
