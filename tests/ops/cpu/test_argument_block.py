"""The argument block of a kernel: which slots a call fills, and what it refuses to point to."""

from __future__ import annotations

import ctypes

import pytest
import torch

from normsmith.errors import InputError
from normsmith.ops import Renorm, Running, batch_norm
from normsmith.ops.call import Call, Update
from normsmith.ops.cpu.argument_block import Block, address_of
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.layout import Layout, layout_of
from normsmith.ops.cpu.memory import LARGE
from normsmith.ops.cpu.saved import Packed


def block_of(x, group_size=None, groups=1):
    return Block(layout_of(x), x.dtype, group_size or len(x), groups)


def packed_of(x, code=None, bits=None):
    statistics = torch.empty(slot.STATISTICS_ROWS, 1, x.shape[1])
    return Packed(statistics, None, code, bits, True, False)


class TestShape:
    def test_is_filled_in_once(self):
        q = block_of(torch.empty(10, 4, 20, 20), 4, 3).q
        assert [q[at] for at in (slot.SAMPLES, slot.CHANNELS, slot.POSITIONS)] == [10, 4, 400]
        assert [q[at] for at in (slot.GROUP_SIZE, slot.GROUPS)] == [4, 3]
        assert [q[at] for at in (slot.THREADS, slot.PARTS)] == [1, 1]

    def test_the_address_is_that_of_the_slots(self):
        block = block_of(torch.empty(10, 4))
        block.q[slot.X] = 77
        block.d[slot.EPS] = 0.5
        assert (ctypes.c_int64 * slot.SLOTS).from_address(block.address)[slot.X] == 77
        assert (ctypes.c_double * slot.SLOTS).from_address(block.address)[slot.EPS] == 0.5
        assert block.q[slot.SELF] == block.address

    @pytest.mark.parametrize(
        ("dtype", "work"),
        [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    )
    def test_numbers_are_worked_on_in_float32_at_least(self, dtype, work):
        block = block_of(torch.empty(10, 4, dtype=dtype))
        assert block.work == block.terms.dtype == work
        assert block.d[slot.LARGEST] == torch.finfo(work).max
        assert block.q[slot.TERMS] == block.terms.data_ptr()

    @pytest.mark.parametrize("shape", [(7, 3, 17, 17), (7, 13), (9, 40, 7, 7), (3, 1031)], ids=str)
    def test_words_hold_a_bit_for_each_element(self, shape):
        x = torch.empty(shape)
        words = block_of(x).words()
        assert 16 * words >= x.numel()
        assert 16 * words <= 2 * x.numel() + 16 * x.shape[0] * x.shape[1]

    def test_words_of_ghost_batches_leave_room_for_the_largest(self):
        layout = layout_of(torch.empty(11, 64))
        by_groups = Block(layout, torch.float32, 4, 2)  # of 4 and of 7 samples
        assert by_groups.q[slot.BIT_LINES] == -(-7 // layout.fold)


class TestVectors:
    def test_are_pointed_to_where_they_are(self):
        block, copies = block_of(torch.empty(10, 4)), []
        weight, bias, mean, var, std = torch.rand(5, 4)
        counter = torch.tensor(0)
        block.set_vectors(weight, bias, Running(mean, var, std, counter), copies)
        assert copies == []
        at = (slot.GAMMA, slot.BETA, slot.RUNNING_MEAN, slot.RUNNING_VAR, slot.RUNNING_STD, slot.COUNTER)
        vectors = (weight, bias, mean, var, std, counter)
        assert [block.q[number] for number in at] == [vector.data_ptr() for vector in vectors]

    def test_of_an_earlier_call_are_forgotten(self):
        block = block_of(torch.empty(10, 4))
        vectors = torch.rand(5, 4)
        block.set_vectors(*vectors[:2], Running(*vectors[2:], torch.tensor(0)), [])
        block.set_vectors(None, None, None, [])
        at = (slot.GAMMA, slot.BETA, slot.RUNNING_MEAN, slot.RUNNING_VAR, slot.RUNNING_STD, slot.COUNTER)
        assert [block.q[number] for number in at] == [0] * 6

    @pytest.mark.parametrize(
        "vector",
        [
            lambda: torch.rand(4).double(),
            lambda: torch.rand(4, 2)[:, 0],
            lambda: torch._neg_view(torch.rand(4)),
            lambda: torch._efficientzerotensor((4,)),
        ],
        ids=["dtype", "gaps", "negative bit", "zeros without memory"],
    )
    def test_are_converted_and_kept_alive_where_they_do_not_fit(self, vector):
        vector, copies = vector(), []
        address = address_of(vector, torch.float32, copies)
        (copied,) = copies
        assert address == copied.data_ptr() != vector.data_ptr()
        torch.testing.assert_close(copied, vector.clone().float())

    def test_none_has_no_address(self):
        assert address_of(None, torch.float32, []) == 0

    @pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var", "residual"])
    def test_of_other_devices_are_refused(self, name):
        x = torch.randn(6, 3)
        partners = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
        partners[name] = torch.ones(6, 3) if name == "residual" else torch.ones(3)
        partners[name] = partners[name].to("meta")
        with pytest.raises(InputError, match=r"the input's device, cpu, got .*meta"):
            batch_norm(x, **partners)


class TestDecisions:
    def test_of_plain_batch_norm(self):
        block = block_of(torch.empty(10, 4))
        block.set_decisions(Call(eps=0.25), None, None)
        assert block.d[slot.EPS] == 0.25
        at = (slot.BY_BATCH, slot.RENORM, slot.UPDATE, slot.SQUARES)
        assert [block.q[number] for number in at] == [1, 0, 0, 0]

    def test_bounds_of_renorm_never_fall_below_batch_norm(self):
        block = block_of(torch.empty(10, 4))
        block.set_decisions(Call(renorm=Renorm(torch.tensor(3.0), 5.0)), None, None)
        assert (block.q[slot.RENORM], block.d[slot.R_MAX], block.d[slot.D_MAX]) == (1, 3.0, 5.0)
        block.set_decisions(Call(renorm=Renorm(0.5, -1.0)), None, None)
        assert (block.d[slot.R_MAX], block.d[slot.D_MAX]) == (1.0, 0.0)
        block.set_decisions(Call(by_batch=False, renorm=Renorm(3.0, 5.0)), None, None)
        assert (block.q[slot.BY_BATCH], block.q[slot.RENORM]) == (0, 0)

    def test_of_an_update(self):
        block = block_of(torch.empty(10, 4))
        block.set_decisions(Call(), None, Update(0.3, True))
        assert (block.q[slot.UPDATE], block.d[slot.MOMENTUM], block.q[slot.SKIP_NONFINITE]) == (1, 0.3, 1)
        block.set_decisions(Call(), None, Update(0.3, False))
        assert block.q[slot.SKIP_NONFINITE] == 0
        block.set_decisions(Call(), None, None)
        assert block.q[slot.UPDATE] == 0

    def test_sums_of_squared_weights_are_pointed_to(self):
        block, squares = block_of(torch.empty(10, 4)), torch.ones(1, dtype=torch.float64)
        block.set_decisions(Call(), squares, None)
        assert block.q[slot.SQUARES] == squares.data_ptr()


class TestBatches:
    def test_of_a_forward(self):
        x, y, z = torch.empty(3, 10, 4)
        block, packed = block_of(x), packed_of(x, torch.ones(10, 1), torch.zeros(9, dtype=torch.int16))
        block.set_forward(x, y, z, packed, relu=True)
        at = (slot.X, slot.Y, slot.RESIDUAL, slot.STATISTICS, slot.CODE, slot.BITS)
        tensors = (x, y, z, packed.statistics, packed.code, packed.bits)
        assert [block.q[number] for number in at] == [tensor.data_ptr() for tensor in tensors]
        assert (block.q[slot.RELU], block.q[slot.STREAM]) == (1, 0)

    def test_bits_are_left_alone_by_a_forward_without_relu(self):
        """As the backward of another activation repeats the forward, and still needs what it kept."""
        x, y = torch.empty(2, 10, 4)
        block = block_of(x)
        block.set_forward(x, y, None, packed_of(x, bits=torch.zeros(9, dtype=torch.int16)), relu=False)
        at = (slot.RESIDUAL, slot.CODE, slot.BITS, slot.RELU)
        assert [block.q[number] for number in at] == [0, 0, 0, 0]

    def test_of_a_backward(self):
        g, x, dx, dz = torch.empty(4, 10, 4)
        dgamma, dbeta = torch.empty(2, 4)
        block, packed = block_of(x), packed_of(x)
        block.set_backward(g, x, packed, dgamma, dbeta, relu=True)
        block.set_input_gradients(dx, dz)
        at = (slot.G, slot.X, slot.STATISTICS, slot.DGAMMA, slot.DBETA, slot.DX, slot.DRESIDUAL)
        tensors = (g, x, packed.statistics, dgamma, dbeta, dx, dz)
        assert [block.q[number] for number in at] == [tensor.data_ptr() for tensor in tensors]
        block.set_input_gradients(dx, None)
        assert block.q[slot.DRESIDUAL] == 0


@pytest.mark.parametrize(
    ("layout", "streams"),
    [
        (Layout("columns", 8, 9, 7, 1), True),
        (Layout("planes", 8, 9, 1, 16 * 20), True),
        (Layout("planes", 8, 9, 1, 16 * 20 + 1), False),
        (Layout("planes", 8, 9, 1, 16 * 300 + 1), True),
    ],
    ids=["columns", "planes of whole cache lines", "planes that share lines", "long planes that share few"],
)
def test_large_outputs_go_past_the_caches(layout, streams):
    block = Block(layout, torch.float32, 8, 1)
    large = torch.empty(LARGE // 4, device="meta")
    assert block.streams(large) is streams
    assert block.streams(large[1:]) is False
