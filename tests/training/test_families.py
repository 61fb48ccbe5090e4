"""CTC models of other families are fine-tuned, scored and used by the same commands."""

import json

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetProcessor,
    ParakeetTokenizer,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hf_asr.checkpoint import load_checkpoint, load_processor
from hf_asr.cli import main
from hf_asr.families import as_conformer_tokenizer
from hf_asr.training.arguments import ModelArguments
from hf_asr.training.building import build

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"


def wav2vec2_tokenizer(folder) -> Wav2Vec2CTCTokenizer:
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def waveform_family(config_class, model_class):
    def save(folder):
        tokenizer = wav2vec2_tokenizer(folder)
        config = config_class(**SMALL, **CONVOLUTIONS, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        model_class(config).save_pretrained(folder)
        Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)

    return save


def wav2vec2_bert(folder):
    tokenizer = wav2vec2_tokenizer(folder)
    config = Wav2Vec2BertConfig(**SMALL, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    Wav2Vec2BertForCTC(config).save_pretrained(folder)
    Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), tokenizer).save_pretrained(folder)


def parakeet(folder):
    """Create a model with a BPE vocabulary whose last token is the blank, as in NeMo."""
    vocabulary = {token: i for i, token in enumerate(["<unk>", "▁", *LETTERS.lower()])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace("▁")
    tokenizer = ParakeetTokenizer(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    encoder = ParakeetEncoderConfig(**SMALL, subsampling_conv_channels=8, subsampling_factor=4)
    config = ParakeetCTCConfig(
        encoder_config=encoder, vocab_size=len(tokenizer), pad_token_id=tokenizer.convert_tokens_to_ids("<pad>")
    )
    ParakeetForCTC(config).save_pretrained(folder)
    ParakeetProcessor(ParakeetFeatureExtractor(), tokenizer).save_pretrained(folder)


FAMILIES = {
    "wav2vec2": waveform_family(Wav2Vec2Config, Wav2Vec2ForCTC),
    "wav2vec2-conformer": waveform_family(Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC),
    "hubert": waveform_family(HubertConfig, HubertForCTC),
    "wav2vec2-bert": wav2vec2_bert,
    "parakeet_ctc": parakeet,
}


@pytest.mark.parametrize("family", ["wav2vec2-bert", "wav2vec2-conformer", "parakeet_ctc"])
def test_a_new_vocabulary_keeps_the_rows_of_shared_tokens(family, tmp_path):
    torch.manual_seed(0)
    FAMILIES[family](tmp_path)
    model, processor = load_checkpoint(str(tmp_path), device="cpu")
    name = "ctc_head" if family == "parakeet_ctc" else "lm_head"
    before, old = {key: value.clone() for key, value in model.get_submodule(name).named_parameters()}, processor
    processor, model, _ = build(
        ModelArguments(model_name_or_path=str(tmp_path), text_normalization="en"), ["a jay, 咖啡"]
    )
    head = model.get_submodule(name)
    ids, old_ids = processor.tokenizer.get_vocab(), old.tokenizer.get_vocab()
    pairs = {ids[token]: old_ids[token] for token in "aj"}
    pairs |= {processor.tokenizer.pad_token_id: old.tokenizer.pad_token_id}
    for key, value in head.named_parameters():
        assert len(value) == len(processor.tokenizer) == model.config.vocab_size
        for number, old_number in pairs.items():
            assert torch.equal(value[number], before[key][old_number]), (key, number)
    assert model.config.pad_token_id == processor.tokenizer.pad_token_id
    assert {"咖", "啡"} <= set(ids) - set(old_ids)


def test_special_tokens_in_upper_case_are_not_lowered(tmp_path):
    """The tutorial of transformers creates such vocabularies for wav2vec2."""
    vocabulary = ["A", "B", "|", "[UNK]", "[PAD]"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    theirs = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), unk_token="[UNK]", pad_token="[PAD]")
    ours = as_conformer_tokenizer(theirs, blank_id=4, text_normalization="en")
    assert ours.pad_token_id == 4 and ours.unk_token_id == 3
    assert ours("Ab, za")["input_ids"] == [0, 1, 2, 3, 0]
    assert ours.decode([0, 0, 4, 1, 2, 4, 0]) == "ab a"


def test_a_hyphen_in_a_transcript_is_not_a_blank_of_the_same_name(tmp_path):
    """The blank of torchaudio's wav2vec2 is a hyphen."""
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(["-", "|", "A", "B", "?"])}))
    theirs = Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), unk_token="?", pad_token="-", bos_token="-", eos_token="-"
    )
    ours = as_conformer_tokenizer(theirs, blank_id=0, text_normalization="none")
    assert ours("A-B|? A")["input_ids"] == [2, 4, 3, 4, 4, 1, 2]
    assert ours.decode([2, 0, 1, 3]) == "A B"


@pytest.mark.parametrize("family", ["wav2vec2", "parakeet_ctc"])
@pytest.mark.parametrize("rule", ["basic", "none"])
def test_special_tokens_in_a_transcript_are_not_labels(family, rule, tmp_path):
    FAMILIES[family](tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    tokenizer = load_processor(str(tmp_path), config, text_normalization=rule).tokenizer
    for special in ("<pad>", "<s>", "</s>", "<unk>", "|"):
        ids = tokenizer(f"HE {special} he")["input_ids"]
        assert tokenizer.pad_token_id not in ids and tokenizer.eos_token_id not in ids
        assert ids == tokenizer(tokenizer.normalize(f"HE {special} he"))["input_ids"]
        if rule == "basic":
            assert ids == tokenizer("he he")["input_ids"]


def test_an_n_gram_language_model_is_ignored_with_a_warning(tmp_path, caplog):
    FAMILIES["wav2vec2"](tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace('"Wav2Vec2Processor"', '"Wav2Vec2ProcessorWithLM"'))
    model, processor = load_checkpoint(str(tmp_path), device="cpu")
    assert "loaded without its n-gram" in caplog.text
    assert processor.tokenizer("a b")["input_ids"] and processor.feature_extractor.sampling_rate == 16000


def test_feature_extractor_options_for_another_family_are_an_error(tmp_path):
    FAMILIES["wav2vec2-bert"](tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path), feature_extractor={"denoise": True})
    with pytest.raises(ValueError, match="feature_extractor: denoise: a wav2vec2-bert checkpoint has its own features"):
        build(arguments, ["a"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpoints_in_half_precision_are_trained_in_float32(dtype, corpus, tmp_path):
    FAMILIES["wav2vec2-bert"](tmp_path)
    Wav2Vec2BertForCTC.from_pretrained(tmp_path).to(dtype).save_pretrained(tmp_path)
    assert {value.dtype for value in load_checkpoint(str(tmp_path))[0].parameters()} == {torch.float32}
    _, model, _ = build(ModelArguments(model_name_or_path=str(tmp_path), text_normalization="en"), ["a"])
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_settings_that_another_family_lacks_log_a_warning(tmp_path, caplog):
    FAMILIES["parakeet_ctc"](tmp_path)
    options = {"consistency_weight": 0.2, "hidden_size": 99, "layerdrop": 0.3}
    caplog.set_level("INFO", logger="hf_asr")
    build(ModelArguments(model_name_or_path=str(tmp_path), text_normalization="en", model=options), ["a"])
    assert "parakeet_ctc has no setting consistency_weight" in caplog.text


def test_a_model_without_a_head_is_fine_tuned_on_clips_shorter_than_a_mask(corpus, tmp_path):
    """A vocabulary is learned; wav2vec2's SpecAugment raises an error for a clip of 0.2 s unless it is padded."""
    torch.manual_seed(0)
    source, data = tmp_path / "source", tmp_path / "data"
    HubertModel(HubertConfig(**SMALL, **CONVOLUTIONS)).save_pretrained(source)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(source)
    data.mkdir()
    for i in range(8):
        soundfile.write(data / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 3200), 16000)
        (data / f"{i}.txt").write_text("ja")
    main(
        [
            "train",
            "--model_name_or_path",
            str(source),
            "--dataset_name",
            str(data),
            "--output_dir",
            str(tmp_path / "run"),
        ]
        + ["--max_steps", "1", "--eval_steps", "1", "--save_steps", "1", "--precision", "fp32", "--report_to", "none"]
        + ["--dataloader_num_workers", "0"]
    )
    tokens = json.loads((tmp_path / "run" / "tokenizer.json").read_text())["model"]["vocab"]
    assert list(tokens) == ["<blk>", "<unk>", "<sos/eos>", "a", "j"]
    with pytest.raises(SystemExit, match="has no tokenizer: fine-tune it on transcripts first"):
        main(
            ["evaluate", "--model_name_or_path", str(source), "--dataset_name", str(data), "--eval_split_name", "train"]
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_another_family_is_fine_tuned_scored_and_transcribes(family, corpus, tmp_path, capsys):
    torch.manual_seed(0)
    source, run = tmp_path / "source", tmp_path / "run"
    source.mkdir()
    FAMILIES[family](source)
    data = ["--dataset_name", str(corpus)]
    main(
        ["train", "--model_name_or_path", str(source), *data, "--output_dir", str(run), "--text_normalization", "zh-en"]
        + ["--max_steps", "2", "--eval_steps", "2", "--save_steps", "2", "--max_batch_seconds", "20"]
        + ["--precision", "fp32", "--report_to", "none", "--dataloader_num_workers", "0"]
    )
    metrics = json.loads((run / "metrics.json").read_text())
    capsys.readouterr()
    main(["evaluate", "--model_name_or_path", str(run), *data])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["cer"] == metrics["cer"]
    recording = str(next((corpus / "validation").glob("*.flac")))
    for more in ([], ["--dtype", "bfloat16"]):
        main(["transcribe", "--model_name_or_path", str(run), recording, "--output_format", "json", *more])
        assert {"text", "words"} <= set(json.loads(capsys.readouterr().out))
    main(["evaluate", "--model_name_or_path", str(source), *data])  # the original checkpoint with its own tokenizer
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["utterances"] == 8


@pytest.mark.parametrize("family", ["wav2vec2", "parakeet_ctc"])
def test_a_beam_search_takes_a_language_model_and_hotwords(family, recording, tmp_path, capsys):
    """As docs/decoding.md prints the commands."""
    (tmp_path / "model").mkdir()
    FAMILIES[family](tmp_path / "model")
    (tmp_path / "texts.txt").write_text("the lamp in the kitchen\nturn the lamp on\n")
    model = ["--model_name_or_path", str(tmp_path / "model")]
    main(["lm", str(tmp_path / "texts.txt"), *model, "--units", "words", "--output_dir", str(tmp_path / "lm")])
    main(
        ["transcribe", *model, str(recording), "--decoding", "beam", "--output_format", "json"]
        + ["--language_model", str(tmp_path / "lm" / "lm.arpa.gz"), "--hotwords", "lamp,kitchen\t3"]
    )
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1])["text"], str)
