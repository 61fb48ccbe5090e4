"""`hf-asr evaluate` states how the text was searched, because figures with a lexicon or a language model need it."""

import json

import pytest

from hf_asr import cli


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "greedy"),
        (["--decoding", "beam", "--lexicon", "ab,c d", "--hotwords", "ab"], "beam, lexicon: 2, hotwords: 1"),
    ],
)
def test_the_decoding_names_what_helps_the_search(checkpoint, corpus, capsys, options, expected):
    source = ["--dataset_name", str(corpus), "--eval_split_name", "validation"]
    cli.main(["evaluate", "--model_name_or_path", str(checkpoint), *source, *options])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["decoding"] == expected
