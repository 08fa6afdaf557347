"""Arguments of the op that layers never pass: refused before anything moves; sizes that the compiler sees change."""

import pytest
import torch

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d
from normsmith.ops import batch_norm


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"running_std": torch.ones(2)}, r"expected running_std of shape \(3,\)"),
        ({"normalize_with": "runing"}, "normalize_with: expected one of 'batch', 'running'"),
        ({"on_small_batch": "skip"}, "on_small_batch: expected one of 'error', 'running'"),
        ({"on_nonfinite": "error"}, "on_nonfinite: expected one of 'skip', 'propagate'"),
        ({"activation": "rellu"}, "activation: expected one of relu"),
    ],
)
def test_refuses_and_leaves_the_statistics(unchecked, options, says):
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(InputError, match=says):
        batch_norm(torch.randn(4, 3), mean, var, **options)
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(var, torch.ones(3))


@pytest.mark.compiles
def test_compiled_ghost_batches_take_batches_of_changing_size():
    torch._dynamo.reset()
    layer, twin = BatchNorm1d(3, ghost_batch_size=4), BatchNorm1d(3, ghost_batch_size=4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for rows in (8, 5, 9, 2, 16, 7, 13):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), twin(x))
        torch.testing.assert_close(layer.running_var, twin.running_var)
