"""Calls of kernels: blocks that are kept, found busy or thrown away, and phases in their order."""

from __future__ import annotations

import threading

import pytest
import torch

from normsmith.ops.cpu import calls, threads
from normsmith.ops.cpu.calls import ALL, batch_and_block, run
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.moments import Groups


@pytest.fixture(autouse=True)
def _empty_workspace():
    calls._WORKSPACE.blocks.clear()
    yield
    calls._WORKSPACE.blocks.clear()


class TestBlocks:
    def test_are_kept_for_batches_of_one_shape(self):
        _, first = batch_and_block(torch.randn(6, 3), None)
        assert first.busy
        first.busy = False
        assert batch_and_block(torch.randn(6, 3), None)[1] is first

    @pytest.mark.parametrize(
        ("x", "groups"),
        [
            (torch.randn(7, 3), None),
            (torch.randn(6, 3, dtype=torch.float64), None),
            (torch.randn(6, 3), Groups(2, 3, 0)),
        ],
        ids=["shape", "dtype", "ghost batches"],
    )
    def test_differ_by_what_is_filled_in_once(self, x, groups):
        _, first = batch_and_block(torch.randn(6, 3), None)
        first.busy = False
        assert batch_and_block(x, groups)[1] is not first

    def test_that_are_busy_are_not_given_out_again(self):
        _, first = batch_and_block(torch.randn(6, 3), None)
        _, second = batch_and_block(torch.randn(6, 3), None)
        assert second is not first
        assert first.busy
        assert second.busy

    def test_belong_to_one_python_thread(self):
        blocks = []

        def take():
            _, block = batch_and_block(torch.randn(6, 3), None)
            block.busy = False
            blocks.append(block)

        take()
        other = threading.Thread(target=take)
        other.start()
        other.join()
        assert blocks[0] is not blocks[1]

    def test_are_not_more_than_a_bound(self, monkeypatch):
        monkeypatch.setattr(calls, "_BLOCKS", 4)
        for rows in range(2, 12):
            batch_and_block(torch.randn(rows, 3), None)
            assert len(calls._WORKSPACE.blocks) <= 4

    def test_know_the_ghost_batches(self):
        _, block = batch_and_block(torch.randn(7, 3), Groups(2, 2, 3))
        assert (block.q[slot.GROUP_SIZE], block.groups) == (2, 3)
        assert batch_and_block(torch.randn(7, 3), None)[1].q[slot.GROUP_SIZE] == 7

    def test_of_other_strides_are_those_of_a_copy(self):
        x = torch.randn(3, 6).t()
        copied, block = batch_and_block(x, None)
        assert copied.is_contiguous()
        assert torch.equal(copied, x)
        assert block.layout.samples == 6
        y = torch.randn(6, 3)
        assert batch_and_block(y, None)[0] is y


class TestRun:
    @pytest.fixture
    def launched(self, monkeypatch):
        """Phases and threads of the launches that take the place of kernels."""
        found = []

        def launch(address, function, block, number):
            found.append((self.block.q[slot.PHASES], self.block.q[slot.PARTS], number))

        monkeypatch.setattr(calls, "launch", launch)
        monkeypatch.setattr(calls, "function_of", lambda *kernel: (0, None))
        return found

    def start(self, shape, phases=ALL, settle=None):
        x = torch.empty(shape)
        _, self.block = batch_and_block(x, None)
        run(self.block, "forward", x.dtype, False, False, phases, settle)

    def test_small_batches_are_one_launch_on_one_thread(self, launched, two_threads):
        self.start((60, 70))
        assert launched == [(ALL, 1, 1)]

    def test_channels_for_all_threads_are_one_launch(self, launched, two_threads):
        self.start((8, 16, 20, 20))
        assert launched == [(ALL, 1, 2)]

    def test_rows_that_are_shared_out_are_one_launch_where_threads_can_wait(self, launched, two_threads):
        self.start((1000, 200))
        assert launched == [(ALL, 2, 2)]
        assert self.block.q[slot.BY_ROWS] == 1

    @pytest.fixture
    def without_waiting(self, monkeypatch, two_threads):
        monkeypatch.setattr(calls, "can_wait", lambda: False)

    def test_elsewhere_they_are_a_launch_for_each_phase(self, launched, without_waiting):
        self.start((1000, 200))
        assert launched == [(MEASURE, 2, 2), (SETTLE, 2, 2), (APPLY, 2, 2)]

    def test_few_channels_are_then_settled_by_one_thread(self, launched, without_waiting):
        self.start((2000, 70))
        assert launched == [(MEASURE, 2, 2), (SETTLE, 2, 1), (APPLY, 2, 2)]

    def test_only_the_phases_asked_for(self, launched, without_waiting):
        self.start((1000, 200), SETTLE | APPLY)
        assert launched == [(SETTLE, 2, 2), (APPLY, 2, 2)]

    def test_somebody_elses_decisions_come_between_measuring_and_applying(self, launched):
        def settle(partial):
            assert partial.shape == (1, 1, 3, 70)
            assert partial.data_ptr() == self.block.q[slot.PARTIAL]
            launched.append("settled")

        self.start((60, 70), settle=settle)
        assert launched == [(MEASURE, 1, 1), "settled", (APPLY, 1, 1)]

    def test_partial_sums_are_not_shared_with_a_call_in_between(self, launched):
        outer = []

        def settle(partial):
            block = self.block
            outer.append(block.q[slot.PARTIAL])
            self.start((60, 70))
            outer.append(self.block.q[slot.PARTIAL])
            self.block = block

        self.start((60, 70), settle=settle)
        assert outer[0] != outer[1]

    def test_memory_for_partial_sums_is_kept_unless_it_was_large(self, launched):
        kept = calls._WORKSPACE.partial
        self.start((2, calls._ROOM))
        assert self.block.q[slot.PARTIAL] != kept.data_ptr()
        self.start((60, 70))
        assert self.block.q[slot.PARTIAL] == kept.data_ptr()

    def test_memory_for_partial_sums_comes_back_after_an_error(self, launched):
        kept = calls._WORKSPACE.partial

        def settle(partial):
            raise RuntimeError("a rank has left")

        with pytest.raises(RuntimeError, match="a rank has left"):
            self.start((60, 70), settle=settle)
        assert calls._WORKSPACE.partial is kept

    def test_a_child_of_a_fork_runs_on_one_thread(self, launched, monkeypatch, two_threads):
        monkeypatch.setattr(threads, "_forked", True)
        self.start((1000, 200))
        assert launched == [(ALL, 1, 1)]
