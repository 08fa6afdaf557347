"""What was taken, in words."""

import torch
from tests.surgery.checkpoints.networks import network, prefixed

from normsmith.surgery import load_checkpoint


def said(tmp_path, content, **options):
    torch.save(content, tmp_path / "a.pt")
    loaded = load_checkpoint(network(), tmp_path / "a.pt", **options)
    return loaded.is_plain, str(loaded).removeprefix(f"{tmp_path / 'a.pt'}: ")


def test_a_plain_file_is_plain(tmp_path):
    assert said(tmp_path, network().state_dict()) == (True, "took its state dict")


def test_all_that_is_not_plain_is_said(tmp_path):
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    content = {"model": prefixed("module.", state) | {"loss": torch.ones(1)}, "teacher": state}
    assert said(tmp_path, content, strict=False, key="model") == (
        False,
        "took model, without the prefix module.\n"
        "  there is also teacher, for --key\n"
        "  left out, not of the model: loss\n"
        "  no num_batches_tracked of 1 norm: counted from 0",
    )
