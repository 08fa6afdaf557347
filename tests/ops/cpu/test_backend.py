"""The row `numba`: which calls it serves, with and without numba, and in real processes of several ranks."""

from __future__ import annotations

import copy

import torch
from tests.ops.cpu.cases import python
from tests.ranks import run_ranks
from torch import nn

from normsmith.layers import BatchNorm2d


def test_slower_paths_serve_and_one_warning_says_so():
    code = """
        import sys, warnings
        sys.modules["numba"] = None
        import torch
        from normsmith.layers import BatchNorm1d, BatchNorm2d
        from normsmith.ops import explain
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for layer, x in ((BatchNorm1d(3), torch.randn(8, 3)), (BatchNorm2d(3), torch.randn(8, 3, 4, 4))):
                for dtype in (torch.float32, torch.float16):
                    layer(x.to(dtype).requires_grad_()).sum().backward()
                    layer.eval()(x.to(dtype))
                    layer.train()
        assert layer.num_batches_tracked == 2
        print(*(str(warning.message) for warning in caught), sep="\\n")
        print(explain(x))
    """
    warning, *explained = python(code)[0].splitlines()
    assert "pip install numba" in warning
    assert explained[0].startswith("numba: numba cannot be imported")
    assert explained[-1] == "aten: taken"


def test_import_does_not_ask_for_it():
    code = (
        "import sys, normsmith; print(sorted(name for name in ('numba', 'llvmlite') if name in sys.modules))"
    )
    assert python(code)[0] == "[]\n"


def test_two_ranks():
    assert run_ranks(trained_alike, 2) == ["numba: taken", "numba: taken"]


def trained_alike(rank: int, size: int) -> str:
    """A step under DistributedDataParallel on two threads, against the same step on the whole gradient."""
    from normsmith.ops import explain

    torch.set_num_threads(2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), BatchNorm2d(8), nn.ReLU())
    twin = copy.deepcopy(net)
    batches = torch.randn(size, 4, 3, 40, 40)
    wrapped = nn.parallel.DistributedDataParallel(net)
    wrapped(batches[rank]).square().mean().backward()
    torch.stack([twin(batch).square().mean() for batch in batches]).mean().backward()
    for mine, whole in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, whole.grad, rtol=1e-4, atol=1e-5)
    return explain(batches[rank])
