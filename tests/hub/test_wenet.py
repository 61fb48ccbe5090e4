"""WeNet's own outputs are the oracle that the blocks are right (see ../shared/wenet_reference/README.md)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hf_asr.hub.wenet import config_from_wenet, convert_state_dict, import_wenet, read_cmvn

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("HF_ASR_WENET_REFERENCE", ROOT.parent / "shared" / "wenet_reference"))
NAMES = ["conformer_offline", "u2pp_streaming"]

pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"WeNet's outputs are not at {REFERENCE} (HF_ASR_WENET_REFERENCE)"
)


@pytest.fixture(scope="module", params=NAMES)
def imported(request):
    folder = REFERENCE / request.param
    return folder, *import_wenet(folder), np.load(folder / "expected.npz")


def test_features(imported):
    _, _, processor, expected = imported
    waveforms = [expected["waveform_0"], expected["waveform_1"]]
    batch = processor(waveforms, sampling_rate=16000)
    for i, frames in enumerate(batch["attention_mask"].sum(-1).tolist()):
        features = batch["input_features"][i, :frames].numpy()
        assert features.shape == expected[f"fbank_{i}"].shape
        np.testing.assert_allclose(features, expected[f"fbank_{i}"], atol=1e-3)


@torch.inference_mode()
def test_encoder_and_ctc_of_a_padded_batch(imported):
    _, model, processor, expected = imported
    batch = processor([expected["waveform_0"], expected["waveform_1"]], sampling_rate=16000)
    lengths = model.get_output_lengths(batch["attention_mask"].sum(-1))
    assert lengths.tolist() == expected["encoder_lengths"].tolist()
    encoded = model.encoder(**batch).last_hidden_state
    log_probs = model(**batch).logits.log_softmax(-1)
    for i, frames in enumerate(lengths.tolist()):
        np.testing.assert_allclose(encoded[i, :frames], expected["encoder_out"][i, :frames], atol=1e-4)
        np.testing.assert_allclose(log_probs[i, :frames], expected["ctc_log_probs"][i, :frames], atol=1e-4)


def test_cmvn_file_agrees_with_the_weights(imported):
    folder, model, *_ = imported
    mean, istd = read_cmvn(folder / "global_cmvn")
    torch.testing.assert_close(model.encoder.feature_mean, mean)
    torch.testing.assert_close(model.encoder.feature_istd, istd)


def test_ids_of_units_are_kept_and_survive_a_reload(imported, tmp_path):
    folder, model, processor, _ = imported
    import_wenet(folder, tmp_path)
    units = dict(line.rsplit(maxsplit=1) for line in (folder / "units.txt").read_text().splitlines())
    reloaded = type(processor).from_pretrained(tmp_path)
    text = "".join(token for token in units if len(token) == 1)
    assert reloaded.tokenizer(text)["input_ids"] == [int(units[token]) for token in text]
    assert len(units) == model.config.vocab_size


def test_what_has_no_place_is_refused_by_name():
    folder = REFERENCE / NAMES[0]
    recipe = yaml.safe_load((folder / "train.yaml").read_text())
    config = config_from_wenet(recipe, vocab_size=40)
    with pytest.raises(ValueError, match="encoder.mystery.weight"):
        convert_state_dict({"encoder.mystery.weight": torch.zeros(1)}, config)
    for change in (
        {"encoder": "branchformer"},
        {"encoder_conf": recipe["encoder_conf"] | {"num_experts": 4}},
        {"model_conf": {"apply_non_blank_embedding": True}},
    ):
        name = "num_experts" if "encoder_conf" in change else "apply_non_blank" if "model_conf" in change else "branch"
        with pytest.raises(ValueError, match=name):
            config_from_wenet(recipe | change, vocab_size=40)
