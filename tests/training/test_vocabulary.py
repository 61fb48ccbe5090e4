import logging

import pytest
import torch
from tokenizers import Tokenizer, models

from hf_asr import ConformerConfig, ConformerForCTC, ConformerTokenizer
from hf_asr.training.vocabulary import (
    choose_text_normalization,
    fit_vocabulary,
    replace_vocabulary,
    unknown_characters,
)


def tokenizer(*texts, **options) -> ConformerTokenizer:
    return ConformerTokenizer.from_texts(texts, text_normalization="en", **options)


def model(size: int) -> ConformerForCTC:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small |= {"decoder_layers": 1, "reverse_decoder_layers": 1}
    return ConformerForCTC(ConformerConfig(**small, subsampling_channels=4, vocab_size=size))


def fit(network, old, texts, choice="auto") -> ConformerTokenizer:
    options = {"kind": "char", "text_normalization": "en", "bpe_vocab_size": 50}
    fitted, kept_rows = fit_vocabulary(old, texts, network.config, choice=choice, **options)
    if kept_rows is not None:
        replace_vocabulary(network, fitted, kept=kept_rows)
    return fitted


DECODER_ROWS = ("decoder.lm_head", "decoder.embed_tokens", "reverse_decoder.lm_head", "reverse_decoder.embed_tokens")
ROWS = ("ctc_head", *DECODER_ROWS)


def rows(network) -> dict[str, torch.Tensor]:
    parameters = dict(network.named_parameters())
    return {
        f"{name}.{kind}": parameters[f"{name}.{kind}"].detach().clone()
        for name in ROWS
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in parameters
    }


@pytest.mark.parametrize(("choice", "texts"), [("auto", ["bad cafe, zoo"]), ("new", ["zebra cab"])])
def test_the_rows_of_shared_tokens_are_kept(choice, texts, caplog):
    old = tokenizer("a bad cab fed")
    network = model(len(old))
    before = rows(network)
    caplog.set_level(logging.INFO, logger="hf_asr")
    new = fit(network, old, texts, choice)
    ids, old_ids = new.get_vocab(), old.get_vocab()
    shared = set(ids) & set(old_ids)
    assert {"<blk>", "<unk>", "<sos/eos>", "▁", "a", "b"} <= shared and "z" in set(ids) - shared
    for name, value in rows(network).items():
        assert len(value) == len(new)
        for token in shared:
            assert torch.equal(value[ids[token]], before[name][old_ids[token]]), (name, token)
    assert network.config.vocab_size == len(new)
    assert f"{len(new)} tokens, {len(shared)} of them from the checkpoint" in caplog.text
    assert network(torch.randn(1, 50, 80), labels=torch.tensor([[len(new) - 1]])).logits.shape[-1] == len(new)
    if choice == "auto":  # the old tokens keep their ids
        assert all(ids[token] == number for token, number in old_ids.items())


def test_auto_adds_space_apostrophe_and_digits(caplog):
    old = ConformerTokenizer.from_texts(["打开客厅的灯"], text_normalization="zh")
    text = "it's on mp3 now"
    assert unknown_characters(old, [text]) == sorted({*text.replace(" ", "▁")})
    new = fit(model(len(old)), old, [text])
    assert new.unk_token_id not in new(text)["input_ids"]
    assert new.decode(new(text)["input_ids"], group_tokens=False) == text
    assert new("打开客厅的灯")["input_ids"] == old("打开客厅的灯")["input_ids"]


@pytest.mark.parametrize("rule", ["basic", "none"])
def test_a_bpe_vocabulary_is_extended(rule, caplog, tmp_path):
    texts = ["the cat that sat", "a hat that the cat had"]
    old = ConformerTokenizer.from_texts(texts, kind="bpe", text_normalization=rule, vocab_size=40)
    network = model(len(old))
    before = rows(network)["ctc_head.weight"]
    new = fit(network, old, [*texts, "the café 打 tree"])
    assert torch.equal(rows(network)["ctc_head.weight"][: len(old)], before)
    assert new(texts)["input_ids"] == old(texts)["input_ids"]
    new.save_pretrained(tmp_path)
    for tokenizer in (new, ConformerTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.decode(tokenizer("the café 打 tree")["input_ids"], group_tokens=False) == "the café 打 tree"
    assert fit(network, old, ["café"], "keep") is old
    assert "the vocabulary lacks f é: they count as unknown (vocabulary auto would add them)" in caplog.text


def test_a_new_vocabulary_logs_the_discarded_tokens(caplog):
    old = tokenizer("a bad cab")
    fit(model(len(old)), old, ["a cad"], "new")
    assert "vocabulary new discards 1 of the checkpoint's 8 tokens and what it learned about them: b" in caplog.text


def test_a_head_with_fewer_rows_than_tokens_is_extended_if_needed():
    """The tokenizer of wav2vec2 adds <s> and </s> to the tokens of the vocabulary file."""
    old = tokenizer("a bad cab")
    network = model(len(old) - 1)
    before = rows(network)["ctc_head.weight"]
    new = fit(network, old, ["zoo"])
    assert len(rows(network)["ctc_head.weight"]) == len(new) == network.config.vocab_size
    assert torch.equal(rows(network)["ctc_head.weight"][: len(old) - 1], before)
    network = model(len(old) - 1)  # without the last, ▁
    assert fit(network, old, ["cab"]) is old and len(rows(network)["ctc_head.weight"]) == len(old) - 1
    assert fit(network, old, ["a cab"]) is old and len(rows(network)["ctc_head.weight"]) == len(old)


def test_a_vocabulary_of_pieces_without_their_model_is_an_error():
    backend = Tokenizer(models.WordLevel({"<blk>": 0, "<unk>": 1, "▁the": 2, "ing": 3, "a": 4}, unk_token="<unk>"))
    old = ConformerTokenizer(tokenizer_object=backend, pad_token="<blk>", unk_token="<unk>", text_normalization="none")
    for choice in ("auto", "keep"):
        with pytest.raises(ValueError, match=r"several characters \(ing, ▁the …\).*vocabulary new"):
            fit(model(5), old, ["the thing"], choice)
    assert fit(model(5), old, ["the thing"], "new").decode([3]) != ""


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("打开客厅的灯", "zh"),
        ("打开 wifi 和客厅的灯", "zh-en"),
        ("set it to 26 and play the song", "en"),
        ("turn on the light 打开灯", "zh-en"),
        ("die Äpfel sind für alle da", "basic"),
        ("satu dua tiga, rumah saya", "basic"),
        ("ひらがなと漢字", "basic"),
        ("मैं हिन्दी लिखता हूँ", "basic"),
        ("yes no", "basic"),
        ("", "basic"),
    ],
)
def test_text_normalization_is_chosen_from_the_transcripts(text, rule):
    assert choose_text_normalization([text] * 3) == rule


def test_a_vocabulary_that_covers_the_transcripts_is_kept():
    old = tokenizer("a bad cab")
    network = model(len(old))
    before = rows(network)
    assert fit(network, old, ["cab"]) is old
    assert all(torch.equal(value, before[name]) for name, value in rows(network).items())
    assert unknown_characters(old, ["bad zoo"]) == ["o", "z"]
    assert fit(network, old, ["zoo"], "keep") is old


def test_new_lower_case_tokens_keep_the_rows_of_upper_case():
    old = ConformerTokenizer.from_texts(["A BAD CAB"], text_normalization="none")
    network = model(len(old))
    before = rows(network)["ctc_head.weight"]
    new = fit(network, old, ["a bad cab"], "new")
    assert "a" in new.get_vocab() and "A" not in new.get_vocab()
    after = rows(network)["ctc_head.weight"]
    assert torch.equal(after[new.get_vocab()["b"]], before[old.get_vocab()["B"]])


def test_an_extended_tokenizer_can_be_reloaded(tmp_path):
    old = tokenizer("a bad cab")
    new = old.extended(["z", "o"])
    new.save_pretrained(tmp_path)
    again = ConformerTokenizer.from_pretrained(tmp_path)
    ids = again("Zoo, cab 3")["input_ids"]
    assert ids == new("Zoo, cab 3")["input_ids"]
    assert again.decode(again("zo cab")["input_ids"]) == "zo cab"
    assert again.normalize("Zoo, 3!") == "zoo three"


def test_an_invalid_vocabulary_choice_is_an_error():
    with pytest.raises(ValueError, match="vocabulary must be auto, keep or new, not 'old'"):
        fit(model(10), None, ["a"], "old")
    with pytest.raises(ValueError, match="the checkpoint has none to keep"):
        fit(model(10), None, ["a"], "keep")
