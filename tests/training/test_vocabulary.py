import logging

import pytest
import torch

from hf_asr import ConformerConfig, ConformerForCTC, ConformerTokenizer
from hf_asr.training.vocabulary import fit_vocabulary, unknown_characters


def tokenizer(*texts, **options) -> ConformerTokenizer:
    return ConformerTokenizer.from_texts(texts, text_normalization="en", **options)


def model(size: int) -> ConformerForCTC:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ConformerForCTC(ConformerConfig(**small, subsampling_channels=4, vocab_size=size, decoder_layers=1))


def fit(network, old, texts, choice="auto") -> ConformerTokenizer:
    options = {"kind": "char", "text_normalization": "en", "bpe_vocab_size": 50}
    return fit_vocabulary(network, old, texts, choice=choice, **options)


ROWS = ("ctc_head", "decoder.lm_head", "decoder.embed_tokens")


def rows(network) -> dict[str, torch.Tensor]:
    parameters = dict(network.named_parameters())
    return {
        f"{name}.{kind}": parameters[f"{name}.{kind}"].detach().clone()
        for name in ROWS
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in parameters
    }


@pytest.mark.parametrize(("choice", "texts"), [("auto", ["bad cafe, zoo"]), ("new", ["zebra cab"])])
def test_shared_rows_are_kept_bit_by_bit(choice, texts, caplog):
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
    assert f"{len(new)} tokens, {len(shared)} of them the checkpoint's" in caplog.text
    assert network(torch.randn(1, 50, 80), labels=torch.tensor([[len(new) - 1]])).logits.shape[-1] == len(new)
    if choice == "auto":  # nothing is forgotten
        assert all(ids[token] == number for token, number in old_ids.items())


def test_a_vocabulary_that_spells_everything_is_kept():
    old = tokenizer("a bad cab")
    network = model(len(old))
    before = rows(network)
    assert fit(network, old, ["cab"]) is old
    assert all(torch.equal(value, before[name]) for name, value in rows(network).items())
    assert unknown_characters(old, ["bad zoo"]) == ["o", "z"]
    assert fit(network, old, ["zoo"], "keep") is old


def test_upper_case_gives_its_rows_to_lower_case():
    old = ConformerTokenizer.from_texts(["A BAD CAB"], text_normalization="none")
    network = model(len(old))
    before = rows(network)["ctc_head.weight"]
    new = fit(network, old, ["a bad cab"], "new")
    assert "a" in new.get_vocab() and "A" not in new.get_vocab()
    after = rows(network)["ctc_head.weight"]
    assert torch.equal(after[new.get_vocab()["b"]], before[old.get_vocab()["B"]])


def test_an_extended_tokenizer_survives_a_reload(tmp_path):
    old = tokenizer("a bad cab")
    new = old.extended(["z", "o"])
    new.save_pretrained(tmp_path)
    again = ConformerTokenizer.from_pretrained(tmp_path)
    ids = again("Zoo, cab 3")["input_ids"]
    assert ids == new("Zoo, cab 3")["input_ids"]
    assert again.decode(again("zo cab")["input_ids"]) == "zo cab"
    assert again.normalize("Zoo, 3!") == "zoo three"


def test_mistakes_say_what_is_accepted():
    with pytest.raises(ValueError, match="vocabulary is auto, keep or new, not 'old'"):
        fit(model(10), None, ["a"], "old")
    with pytest.raises(ValueError, match="no vocabulary to keep"):
        fit(model(10), None, ["a"], "keep")
