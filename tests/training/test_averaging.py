import torch
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerState

from hf_asr.training.averaging import AVERAGE_FILE, WeightAverage, mean_of_checkpoints


def test_moving_average_is_the_recursion(tmp_path):
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.5)
    expected = model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(step)
        average.on_step_end(None, TrainerState(global_step=step), None)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.mean["weight"], expected)

    own = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight, expected)
    assert torch.equal(model.weight, own)

    average.save(tmp_path)
    restored = WeightAverage(nn.Linear(3, 2), decay=0.5)
    assert restored.load(tmp_path)
    assert torch.equal(restored.mean["weight"], average.mean["weight"])


def test_mean_of_checkpoints_takes_their_moving_averages(tmp_path):
    for i, value in enumerate((1.0, 2.0, 6.0)):
        (tmp_path / str(i)).mkdir()
        save_file({"w": torch.full((2,), value), "n": torch.tensor(3.0)}, tmp_path / str(i) / "model.safetensors")
    save_file({"w": torch.full((2,), 3.0)}, tmp_path / "2" / AVERAGE_FILE)
    mean = mean_of_checkpoints([tmp_path / str(i) for i in range(3)])
    assert mean["w"].tolist() == [2.0, 2.0] and mean["n"] == 3.0


def test_names_of_an_older_weight_norm_are_one_with_the_new(tmp_path):
    save_file({"conv.weight_g": torch.ones(1), "conv.weight_v": torch.ones(2)}, tmp_path / "model.safetensors")
    names = [f"conv.parametrizations.weight.original{i}" for i in range(2)]
    save_file({names[0]: torch.full((1,), 3.0), names[1]: torch.full((2,), 5.0)}, tmp_path / AVERAGE_FILE)
    mean = mean_of_checkpoints([tmp_path])
    assert {name: value.tolist() for name, value in mean.items()} == {
        "conv.weight_g": [3.0],
        "conv.weight_v": [5.0, 5.0],
    }
