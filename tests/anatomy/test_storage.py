"""Which tensors share elements, by where they lie in memory."""

import pytest
import torch

from normsmith.anatomy.memory import Part
from normsmith.anatomy.storage import placed

BASE = torch.arange(24.0).view(2, 3, 4)


def value_of_sharing(one, other):
    """What writing says: whether a value written to one is seen in the other."""
    kept = BASE.clone()
    other_before = other.clone()
    one.fill_(-1)
    seen = not torch.equal(other, other_before)
    BASE.copy_(kept)
    return seen


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (BASE, BASE.view(6, 4)),
        (BASE[:, :1], BASE[:, 1:]),  # interleaved: the ranges overlap, the elements do not
        (BASE[:, :2], BASE[:, 1:]),
        (BASE[0], BASE[1]),
        (BASE[..., ::2], BASE[..., 1::2]),
        (BASE[1:, :2], BASE[:, 1:2, :3]),
        (BASE.transpose(0, 2), BASE[0, 2, 3]),
        (BASE[0, :0], BASE),
    ],
)
def test_parts_meet_where_writing_to_one_is_seen_in_the_other(one, other):
    (block, part), (same, others) = placed(one), placed(other)
    assert block == same or not one.numel()
    assert part.meets(others) is others.meets(part) is value_of_sharing(one, other)


def test_tensors_of_their_own_lie_elsewhere():
    assert placed(torch.zeros(2))[0] != placed(torch.ones(2))[0]
    sparse = torch.eye(2).to_sparse()
    assert placed(sparse)[0] == placed(sparse)[0] != placed(torch.eye(2).to_sparse())[0]


def test_elements_of_another_size_may_be_the_same():
    x = torch.zeros(4)
    assert placed(x)[0] == placed(x.view(torch.float16))[0]
    assert placed(x)[1].meets(placed(x.view(torch.float16))[1])
    assert placed(x)[1].meets(Part())
    assert placed(x)[1] == placed(x.detach())[1] != placed(x.view(2, 2))[1]
