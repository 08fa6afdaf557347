"""What is written has the layout of what was read, whole; what could not stay is named."""

from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.surgery.checkpoints.networks import network, prefixed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normsmith import surgery
from normsmith.surgery import load_checkpoint, save_checkpoint


def trained():
    """A network and the state of an optimizer that has trained it."""
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(torch.randn(8, 6)).sum().backward()
    optimizer.step()
    return model, optimizer.state_dict()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def reset(model):
    """Other statistics, as a recalibration leaves them."""
    with torch.no_grad():
        model[1].running_mean.add_(1)
    return model


def test_everything_else_in_the_file_stays(tmp_path):
    model, optimizer = trained()
    content = {
        "epoch": 3,
        "state_dict": OrderedDict(prefixed("module.", model.state_dict())),
        "state_dict_ema": network(2).state_dict(),
        "optimizer": optimizer,
        "args": {"lr": 0.1, "betas": [0.9, 0.99]},
    }
    path = tmp_path / "last.pth.tar"
    torch.save(content, path)
    changed = network()
    loaded = load_checkpoint(changed, path)
    notes = save_checkpoint(reset(changed), tmp_path / "new.tar", like=loaded)
    assert notes == ("state_dict_ema is another copy of the model and stays as it was",)
    written = torch.load(tmp_path / "new.tar")
    assert torch.equal(
        written["state_dict"].pop("module.1.running_mean"),
        content["state_dict"].pop("module.1.running_mean") + 1,
    )
    assert same(written, content)
    assert written["state_dict_ema"]._metadata == content["state_dict_ema"]._metadata


def test_a_file_replaced_by_itself_is_the_new_one(tmp_path):
    torch.save(network(1).state_dict(), tmp_path / "a.pt")
    model = network()
    loaded = load_checkpoint(model, tmp_path / "a.pt")
    assert save_checkpoint(reset(model), tmp_path / "a.pt", like=loaded) == ()
    assert torch.equal(torch.load(tmp_path / "a.pt")["1.running_mean"], model[1].running_mean)


def test_states_of_optimizers_go_with_the_parameters_that_they_are_of(tmp_path):
    model, optimizer = trained()
    content = {
        "state_dict": prefixed("model.", model.state_dict()) | {"loss.weight": torch.ones(2)},
        "optimizer_states": [optimizer],
        "more": {"optimizer": optimizer, "epoch": 3},
    }
    torch.save(content, tmp_path / "last.ckpt")
    loaded = load_checkpoint(model, tmp_path / "last.ckpt", strict=False)
    surgery.strip(model, batch=torch.randn(4, 6)).apply(partial=True)
    notes = save_checkpoint(model, tmp_path / "new.ckpt", like=loaded)
    assert notes == (
        "dropped: optimizer_states, more.optimizer: states of an optimizer for other parameters",
    )
    written = torch.load(tmp_path / "new.ckpt")
    assert written.keys() == {"state_dict", "more"}
    assert written["more"] == {"epoch": 3}
    assert set(written["state_dict"]) == {f"model.{name}" for name in model.state_dict()} | {"loss.weight"}
    assert "model.1.weight" not in written["state_dict"]


def test_the_average_of_a_model_stays_one(tmp_path):
    model = network(1)
    average = AveragedModel(model)
    average.update_parameters(model)
    torch.save(average.state_dict(), tmp_path / "swa.pt")
    loaded = load_checkpoint(model, tmp_path / "swa.pt")
    save_checkpoint(reset(model), tmp_path / "new.pt", like=loaded)
    other = AveragedModel(network())
    other.load_state_dict(torch.load(tmp_path / "new.pt"))
    assert torch.equal(other.module[1].running_mean, model[1].running_mean)
    assert other.n_averaged == 1


def test_safetensors_keep_texts_and_tied_names(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    state = {name: value for name, value in model.state_dict().items() if name != "2.weight"}
    save_file(prefixed("bert.", state), tmp_path / "a.safetensors", {"format": "pt", "by": "me"})
    loaded = load_checkpoint(model, tmp_path / "a.safetensors", prefix="bert.")
    save_checkpoint(reset(model), tmp_path / "b.safetensors", like=loaded)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "by": "me"}
    written = load_file(tmp_path / "b.safetensors")
    assert written.keys() == prefixed("bert.", state).keys()
    assert torch.equal(written["bert.1.running_mean"], model[1].running_mean)


@pytest.mark.parametrize("changes", [False, True])
def test_dtypes_are_those_of_the_file_where_values_fit(tmp_path, changes):
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network(1).state_dict().items()
    }
    torch.save(state, tmp_path / "half.pt")
    model = network()
    loaded = load_checkpoint(model, tmp_path / "half.pt")
    if changes:
        model[1].running_var.fill_(1e6)
        model[1].running_mean.fill_(3)
    save_checkpoint(model, tmp_path / "new.pt", like=loaded)
    written = torch.load(tmp_path / "new.pt")
    assert written["0.weight"].dtype == written["1.running_mean"].dtype == torch.float16
    assert written["1.running_var"].dtype == (torch.float32 if changes else torch.float16)
    assert not changes or written["1.running_var"].eq(1e6).all()
    assert changes or same(written, state)


def test_counters_that_an_old_file_lacks_are_added_once_they_count(tmp_path):
    state = {name: value for name, value in network(1).state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pt")
    model = network()
    loaded = load_checkpoint(model, tmp_path / "old.pt")
    save_checkpoint(model, tmp_path / "new.pt", like=loaded)
    assert torch.load(tmp_path / "new.pt").keys() == state.keys()
    model[1].num_batches_tracked.fill_(7)
    save_checkpoint(model, tmp_path / "new.pt", like=loaded)
    assert torch.load(tmp_path / "new.pt")["1.num_batches_tracked"] == 7


def test_another_form_has_the_weights_alone_and_says_so(tmp_path):
    content = {"epoch": 3, "state_dict": prefixed("module.", network(1).state_dict()), "arch": "x"}
    torch.save(content, tmp_path / "last.pt")
    model = network()
    loaded = load_checkpoint(model, tmp_path / "last.pt")
    notes = save_checkpoint(model, tmp_path / "new.safetensors", like=loaded)
    assert notes == ("the weights alone, without the prefix module.; left out: epoch, arch",)
    assert load_file(tmp_path / "new.safetensors").keys() == model.state_dict().keys()


def test_without_a_checkpoint_it_is_the_state_dict(tmp_path):
    model = network(1)
    assert save_checkpoint(model, tmp_path / "a.pt") == ()
    assert same(torch.load(tmp_path / "a.pt"), dict(model.state_dict()))


def test_wrappers_of_parts_stay_within_names_and_new_values_stand_beside_the_old(tmp_path):
    model = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 2)).eval()
    state = {
        f"module.{name.replace('0.', '0._orig_mod.')}": value for name, value in model.state_dict().items()
    }
    torch.save({"net": state, "ema": state}, tmp_path / "a.pt")
    loaded = load_checkpoint(model, tmp_path / "a.pt", key="net")
    assert "without the prefix module., without _orig_mod. within names" in str(loaded)
    notes = save_checkpoint(surgery.fold(model).apply(), tmp_path / "b.pt", like=loaded)
    assert "ema is another copy of the model and stays as it was" in notes
    written = torch.load(tmp_path / "b.pt")["net"]
    assert set(written) == {
        "module.0._orig_mod.weight", "module.0._orig_mod.bias", "module.2.weight", "module.2.bias"
    }  # fmt: skip
    assert torch.equal(written["module.0._orig_mod.bias"], model[0].bias)
