"""Averages of weights: which values are averaged, and that the scored weights are saved and loaded."""

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerState

from hf_asr.training.averaging import AVERAGE_FILE, WeightAverage, mean_of_checkpoints, weights_of


def test_the_moving_average_follows_its_formula(tmp_path):
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


def trained_batch_norm(steps: int = 20) -> tuple[nn.Module, WeightAverage]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(model, decay=0.8)
    for step in range(1, steps + 1):
        with torch.no_grad():
            model[0].weight.add_(0.1)
        model.train()(torch.randn(8, 3))
        average.on_step_end(None, TrainerState(global_step=step), None)
    return model.eval(), average


def test_batch_norm_statistics_are_averaged_too():
    model, average = trained_batch_norm()
    now = model[1].running_mean.clone()
    expected, recursion = torch.zeros(4), WeightAverage(nn.BatchNorm1d(4), decay=0.8)
    assert {"1.running_mean", "1.running_var"} < set(average.mean) and "running_mean" in recursion.mean
    torch.manual_seed(0)
    replayed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for step in range(1, 21):
        with torch.no_grad():
            replayed[0].weight.add_(0.1)
        replayed(torch.randn(8, 3))
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * replayed[1].running_mean
    torch.testing.assert_close(average.mean["1.running_mean"], expected)
    with average.applied():
        torch.testing.assert_close(model[1].running_mean, expected)
        assert model[1].num_batches_tracked == 20
    assert torch.equal(model[1].running_mean, now)


def test_a_checkpoint_contains_the_scored_weights(tmp_path):
    model, average = trained_batch_norm()
    inputs = torch.randn(5, 3)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    average.save(tmp_path)
    with average.applied(), torch.no_grad():
        scored = model(inputs)
    for weights in (weights_of(tmp_path), mean_of_checkpoints([tmp_path])):
        loaded = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
        loaded.load_state_dict(weights)
        with torch.no_grad():
            assert torch.equal(loaded(inputs), scored)
        assert loaded[1].num_batches_tracked == 20


def test_an_average_without_buffers_uses_those_of_the_model(tmp_path):
    model, average = trained_batch_norm()
    average.save(tmp_path)
    parameters = {name: value for name, value in load_file(tmp_path / AVERAGE_FILE).items() if "running" not in name}
    save_file(parameters, tmp_path / AVERAGE_FILE)
    average.mean["0.weight"].zero_()
    assert average.load(tmp_path)
    assert torch.equal(average.mean["1.running_mean"], model[1].running_mean)
    assert torch.equal(average.mean["0.weight"], parameters["0.weight"])


def test_the_mean_of_checkpoints_averages_batch_norm_but_not_its_count(tmp_path):
    for i, (mean, count) in enumerate(((1.0, 10), (2.0, 25))):
        (tmp_path / str(i)).mkdir()
        weights = {"running_mean": torch.full((2,), mean), "num_batches_tracked": torch.tensor(count)}
        save_file(weights, tmp_path / str(i) / "model.safetensors")
    mean = mean_of_checkpoints([tmp_path / str(i) for i in range(2)])
    assert mean["running_mean"].tolist() == [1.5, 1.5] and mean["num_batches_tracked"] == 25


def test_the_mean_of_checkpoints_uses_their_moving_averages(tmp_path):
    for i, value in enumerate((1.0, 2.0, 6.0)):
        (tmp_path / str(i)).mkdir()
        save_file({"w": torch.full((2,), value), "n": torch.tensor(3.0)}, tmp_path / str(i) / "model.safetensors")
    save_file({"w": torch.full((2,), 3.0)}, tmp_path / "2" / AVERAGE_FILE)
    mean = mean_of_checkpoints([tmp_path / str(i) for i in range(3)])
    assert mean["w"].tolist() == [2.0, 2.0] and mean["n"] == 3.0


def test_names_of_the_old_weight_norm_are_matched_with_the_new(tmp_path):
    save_file({"conv.weight_g": torch.ones(1), "conv.weight_v": torch.ones(2)}, tmp_path / "model.safetensors")
    names = [f"conv.parametrizations.weight.original{i}" for i in range(2)]
    save_file({names[0]: torch.full((1,), 3.0), names[1]: torch.full((2,), 5.0)}, tmp_path / AVERAGE_FILE)
    mean = mean_of_checkpoints([tmp_path])
    assert {name: value.tolist() for name, value in mean.items()} == {
        "conv.weight_g": [3.0],
        "conv.weight_v": [5.0, 5.0],
    }
