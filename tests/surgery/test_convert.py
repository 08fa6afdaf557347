"""Converting batch norms: what becomes of each kind, what is carried, what is refused."""

from tests.contracts.surgery import SurgeryContract
from torch import nn

from normsmith.surgery import Plan, convert


class TestRenorm(SurgeryContract):
    def plan(self, model: nn.Module) -> Plan:
        return convert(model, to="renorm", total_steps=100)


class TestGroup(SurgeryContract):
    def plan(self, model: nn.Module) -> Plan:
        return convert(model, to="group")
