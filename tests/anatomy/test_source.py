"""What source code reads and calls."""

import pytest
from torch import nn

from normsmith.anatomy.source import ANY, Access, accesses


class Parent(nn.Module):
    def forward(self, x):
        return self.of_parent(x)

    def extra(self):
        return self.unused.weight


class Child(Parent):
    def forward(self, x, *, twice=False):
        first = self.layers[0]
        for layer, other in zip(self.layers, (self.a, self.b), strict=False):
            x = layer(x) + other.shift
        for name, block in self.blocks.items():
            x = block.norm(x), name
        chosen = self.a if twice else self.b
        if (found := self.c) is not None:
            x = x + found.scale
        values = [n.eps for n in self.norms]
        one, two = self.d, self.e
        return super().forward(x) + first.gain + chosen.gain + self.helped(two) + one.gain + sum(values)

    def helped(self, given):
        return given.gain

    def never(self):
        return self.z.gain


class Endless(nn.Module):
    def forward(self, x):
        node = self.first
        while node:
            node = node.next
            x = node(x)
        return x


READ = [
    (("layers", ANY), "gain"), (("a",), "shift"), (("b",), "shift"), (("a",), "gain"), (("b",), "gain"),
    (("c",), "scale"), (("norms", ANY), "eps"), (("d",), "gain"), (("e",), "gain"),
]  # fmt: skip


@pytest.mark.parametrize(("chain", "name"), READ)
def test_reads_are_followed_through_variables_loops_and_methods(chain, name):
    assert Access(chain, name) in accesses(Child)


@pytest.mark.parametrize("chain", [("layers", ANY), ("blocks", ANY, "norm"), ("of_parent",)])
def test_calls_are_seen_those_of_the_inherited_forward_too(chain):
    assert Access(chain, "", is_call=True) in accesses(Child)


def test_what_no_forward_leads_to_is_not_read():
    read = {access.chain for access in accesses(Child)}
    assert ("z",) not in read
    assert ("unused",) not in read
    assert ("layers", ANY) in read


def test_code_that_goes_on_for_ever_ends():
    assert Access(("first",), "next") in accesses(Endless)
    assert max(len(access.chain) for access in accesses(Endless)) < 20


def test_without_source_code_nothing_is_seen():
    kind = type("Made", (nn.Module,), {})
    exec("def forward(self, x):\n    return self.bn.weight", globals_ := {})
    kind.forward = globals_["forward"]
    assert accesses(kind) == ()
