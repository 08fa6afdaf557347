"""Attributes that torch's converters read of a batch norm, refused where they would lose what a layer does."""

from __future__ import annotations

from typing import Any

from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.layers._where import where


class RefusesConverters(nn.Module):
    """A norm that refuses torch's fusers, quantisation and `convert_sync_batchnorm` where they would lose something.

    They build a plain batch norm from the attributes they know of one. A layer that does more refuses to give these
    attributes, instead of silently losing what it does.
    """

    _epsilon: float

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        return self._epsilon

    @property
    def eps(self) -> float:
        """`epsilon`, refused where torch's fusers, which read it, would fold something else than this layer.

        Raises:
            InputError: evaluation is more than torch's formula of the running mean and variance.
        """
        lost = self._lost_by_fusers()
        if lost is not None:
            raise InputError(
                f"{type(self).__name__} has no eps: torch's fusers read that to fold a plain batch norm, and would "
                f"drop {lost}; read epsilon, and fold with normsmith.surgery"
            )
        return self._epsilon

    @eps.setter
    def eps(self, value: float) -> None:
        self._epsilon = value

    @property
    def qconfig(self) -> Any:
        """What torch's quantisation leaves on a module; refused where its fusers would change the layer.

        `convert_sync_batchnorm` asks for this attribute as well.

        Raises:
            SurgeryError: the layer does what torch's batch norm cannot.
        """
        self._refuse_converters()
        if "_qconfig" not in self.__dict__:
            raise AttributeError("qconfig")
        return self.__dict__["_qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        if value is not None:
            self._refuse_converters()
        self.__dict__["_qconfig"] = value

    def _refuse_converters(self) -> None:
        """Raise SurgeryError, with what would be lost, unless a plain batch norm can take the place of the layer."""
        lost = self._lost_by_converters()
        if lost is not None:
            raise SurgeryError(
                f"{where(self)}: torch's converters expect a plain batch norm and would silently drop {lost} of "
                f"this {type(self).__name__}; use process_group=... to synchronise it, normsmith.surgery to change it"
            )

    def _lost_by_fusers(self) -> str | None:
        """What evaluation does beyond torch's formula; None if nothing."""
        return None

    def _lost_by_converters(self) -> str | None:
        """What torch's batch norm would lack in the place of this layer; None if nothing."""
        return None
