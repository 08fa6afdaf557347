"""How work is shared out in a kernel: items among threads, and samples of ghost batches among parts."""

from __future__ import annotations

from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.lanes import call, call_for_number
from normsmith.ops.cpu.kernels.translate import part


@part
def share_of(a, items):
    """First and last + 1 of the items of this thread.

    They are shared among the threads that have started, which may be fewer than were asked for.
    """
    thread, threads = a[slot.THREAD], a[slot.THREADS]
    if a[slot.GET_THREAD] != 0:
        thread, threads = call_for_number(a[slot.GET_THREAD]), call_for_number(a[slot.GET_THREADS])
    return items * thread // threads, items * (thread + 1) // threads


@part
def wait_for_others(a):
    """Wait until every thread that has started comes here, where there are several."""
    if a[slot.BARRIER] != 0:
        call(a[slot.BARRIER])


@part
def samples_of(a, group, number):
    """First and last + 1 of the samples of one part of a ghost batch."""
    first = group * a[slot.GROUP_SIZE]
    samples = a[slot.SAMPLES] - first if group + 1 == a[slot.GROUPS] else a[slot.GROUP_SIZE]
    parts = a[slot.PARTS]
    return first + samples * number // parts, first + samples * (number + 1) // parts
