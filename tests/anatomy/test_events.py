"""The log of a forward: events are numbered in the order of the calls and keep what they were made of."""

from torch import nn

from normsmith.anatomy.events import EventLog


def test_events_are_numbered_in_the_order_in_which_they_come():
    log, layer = EventLog(), nn.Linear(2, 2)
    x = log.add("input", "", "x", shape=(3, 2))
    y = log.add("module", "0", "Linear", [x], layer, (3, 2))
    z = log.add("function", "", "add", iter([x, y]))
    assert log.events == [x, y, z]
    assert [event.index for event in log.events] == [0, 1, 2]
    assert (y.kind, y.path, y.name, y.module, y.shape) == ("module", "0", "Linear", layer, (3, 2))
    assert z.sources == (x, y)
    assert (x.sources, z.module, z.shape) == ((), None, None)
