"""The argument block of a kernel: which slots a call fills, and what it refuses to point to."""

from __future__ import annotations

import pytest
import torch

from normsmith.errors import InputError
from normsmith.ops import batch_norm


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var", "residual"])
def test_partners_are_refused(name):
    x = torch.randn(6, 3)
    partners = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    partners[name] = torch.ones(6, 3) if name == "residual" else torch.ones(3)
    partners[name] = partners[name].to("meta")
    with pytest.raises(InputError, match=r"the input's device, cpu, got .*meta"):
        batch_norm(x, **partners)
