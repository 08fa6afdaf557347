"""Arguments of the op in the form that backends take, and batches that are refused."""

from __future__ import annotations

import pytest
import torch

from normsmith.errors import InputError
from normsmith.ops import ACTIVATIONS, Renorm, Sync
from normsmith.ops._check import check_batch, make_call
from normsmith.ops.call import Call
from normsmith.ops.moments import Groups


class Alone(Sync):
    """A process group of one rank that exchanges nothing."""

    def __init__(self):
        self.rank, self.ranks = 0, 1


class TestCheckBatch:
    @pytest.mark.parametrize(
        ("x", "says"),
        [(torch.ones(4, 3, dtype=torch.int64), "floating-point input"), (torch.ones(4), "unsqueeze")],
        ids=["integers", "one dimension"],
    )
    def test_refuses_batches_of_another_kind(self, unchecked, x, says):
        with pytest.raises(InputError, match=says):
            check_batch(x, None)

    def test_names_the_vector_of_another_length(self, unchecked):
        with pytest.raises(
            InputError, match=r"expected bias of shape \(3,\) .* got \(4,\); channels come second"
        ):
            check_batch(torch.ones(4, 3), None, weight=torch.ones(3), bias=torch.ones(4))

    def test_refuses_residuals_of_another_shape(self, unchecked):
        with pytest.raises(InputError, match=r"residual: expected the input's shape \(4, 3\), got \(3, 4\)"):
            check_batch(torch.ones(4, 3), torch.ones(3, 4))
        check_batch(torch.ones(4, 3), torch.ones(4, 3), weight=None)


class TestMakeCall:
    def test_of_nothing_but_a_batch_is_plain(self):
        assert make_call(torch.ones(4, 3)) == Call()

    def test_inference_forgets_what_only_batches_need(self):
        call = make_call(
            torch.ones(1, 3),
            normalize_with="running",
            renorm=Renorm(3.0, 5.0),
            sample_weight=torch.ones(1),
            ghost_batch_size=2,
            activation="relu",
        )
        assert call == Call(by_batch=False, activation=ACTIVATIONS["relu"])

    def test_a_single_value_per_channel_is_refused(self):
        with pytest.raises(InputError, match="more than one value per channel"):
            make_call(torch.ones(1, 3))
        assert make_call(torch.ones(1, 3), on_small_batch="running") == Call()
        assert make_call(torch.ones(1, 3, 2)) == Call()

    def test_a_single_value_is_enough_where_other_ranks_have_more(self):
        sync = Alone()
        assert make_call(torch.ones(1, 3), sync=sync).sync is sync
        with pytest.raises(InputError, match="more than one value per channel"):
            make_call(torch.ones(1, 3), sync=sync, ghost_batch_size=2)

    def test_ghost_batches_normalise_without_other_ranks(self):
        call = make_call(torch.ones(8, 3), sync=Alone(), ghost_batch_size=3)
        assert call.sync is None
        assert call.groups == Groups(3, 2, 2)

    def test_ghost_batches_of_a_single_value_are_refused(self):
        with pytest.raises(InputError, match="1 rows × 1 positions"):
            make_call(torch.ones(8, 3), ghost_batch_size=1)
        assert make_call(torch.ones(8, 3, 2), ghost_batch_size=1).groups == Groups(1, 8, 0)

    def test_weights_are_in_the_dtype_of_the_work(self):
        x = torch.ones(4, 3, dtype=torch.bfloat16)
        call = make_call(x, mask=torch.tensor([True, True, False, True]))
        assert call.weights.dtype == torch.float32
        assert call.weights.flatten().tolist() == [1, 1, 0, 1]
