"""What is computed in float64 where a device has it, and on the CPU where it does not."""

import torch

from normsmith.anatomy import float64


def test_values_keep_their_device_if_it_has_float64(monkeypatch):
    here = torch.ones(2, device="meta", requires_grad=True)
    wide = float64.in_float64(here)
    assert (wide.device.type, wide.dtype, wide.requires_grad) == ("meta", torch.float64, False)
    moved = []
    monkeypatch.setattr(float64, "_WITHOUT", frozenset(("meta",)))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor) or torch.zeros(2))
    wide = float64.in_float64(here)
    assert (wide.device.type, wide.dtype) == ("cpu", torch.float64)
    assert len(moved) == 1
