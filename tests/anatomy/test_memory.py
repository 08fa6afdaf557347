"""Whose values a tensor has after calls have written into memory."""

from normsmith.anatomy.events import EventLog
from normsmith.anatomy.memory import Memory, Part


def test_a_tensor_has_the_values_of_the_call_that_overwrote_it_last():
    log, part = EventLog(), Part()
    memory = Memory(log)
    made, first, second = (log.add("function", "", name) for name in ("linear", "relu", "add"))
    memory.hold("h", made, "block", part)
    assert memory.read("h", "") == (made, ())
    assert memory.overwritten(["h"]) == (made,)
    memory.write(["h"], first)
    memory.hold("result", first, "block", part)
    assert memory.read("h", "") == (first, (first,))
    assert memory.read("result", "") == (first, ())
    assert memory.overwritten(["h"]) == (first,)
    memory.write(["result"], second)
    assert memory.read("h", "") == memory.read("result", "") == (second, (second,))


def test_a_tensor_that_is_written_in_part_becomes_the_result_of_a_write():
    log = EventLog()
    memory = Memory(log)
    made, view, relu = (log.add("function", "", name) for name in ("linear", "getitem", "relu"))
    memory.hold("h", made, "block", Part())
    memory.hold("view", view, "block", Part())
    memory.hold("other", made, "elsewhere", Part())
    assert memory.overwritten(["view"]) == (made, view)
    memory.write(["view"], relu)
    assert memory.read("other", "") == (made, ())
    mixed, written = memory.read("h", "block2")
    assert (mixed.name, mixed.path, mixed.sources, mixed.reads_written) == (
        "write",
        "block2",
        (made, relu),
        (relu,),
    )
    assert written == ()
    assert memory.read("h", "") == (mixed, ())


def test_what_lies_in_no_known_memory_is_not_written():
    log = EventLog()
    memory = Memory(log)
    event = log.add("input", "", "x")
    assert memory.overwritten(["x"]) == ()
    memory.write(["x"], event)
    assert "x" not in memory
    assert not memory.has("block")
