"""Attributes that torch's converters read of a batch norm, refused where they would lose what a layer does."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import nn

from normsmith._torch import children_so_far
from normsmith.errors import InputError, SurgeryError
from normsmith.layers._where import where
from normsmith.layers.callers import is_called_by
from normsmith.layers.properties import TruthfulProperties


class RefusedAttributeError(InputError, AttributeError):
    """An attribute that a layer does not have, because who reads it would build something else than the layer."""


class RefusesConverters(TruthfulProperties, nn.Module):
    """A norm that refuses torch's fusers and `convert_sync_batchnorm` where they would lose something.

    They build a plain batch norm from the attributes they know of one. A layer that does more refuses to give these
    attributes, instead of silently losing what it does. torch's quantisation knows torch's own classes only: it leaves
    every norm of ours in floating point as it is, and fuses none.
    """

    _epsilon: float
    is_batch_norm: ClassVar[bool]

    @property
    def epsilon(self) -> float:
        """What is added to the variance."""
        return self._epsilon

    @property
    def eps(self) -> float:
        """`epsilon`, refused where torch's fusers, which read it, would fold something else than this layer.

        Raises:
            InputError: evaluation is more than torch's formula of the running mean and variance; or what is set is
                no number ≥ 0.
        """
        lost = self._lost_by_fusers()
        if lost is not None:
            if is_called_by("convert_sync"):
                self._refuse_converters()
            raise RefusedAttributeError(
                f"{type(self).__name__} has no eps: torch's fusers read that to fold a plain batch norm, and would "
                f"drop {lost}; read epsilon, and fold with normsmith.surgery"
            )
        return self._epsilon

    @eps.setter
    def eps(self, value: float) -> None:
        try:
            allowed = 0 <= value < math.inf
        except (TypeError, ValueError, RuntimeError):  # no number, or a tensor of several
            allowed = False
        if not allowed:
            raise InputError(
                f"eps: expected a finite number ≥ 0 to add to the variance, got {value!r}; the usual one is 1e-5"
            )
        self._epsilon = value

    @property
    def qconfig(self) -> Any:
        """What torch's quantisation leaves on a module; without a use for the layer, which stays as it is.

        Functions that convert batch norms to synchronised ones ask for this attribute as well.

        Raises:
            SurgeryError: such a function asks, and the layer does what torch's batch norm cannot.
        """
        if is_called_by("convert_sync"):
            self._refuse_converters()
        if "qconfig" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__} has no qconfig: torch's quantisation has not set one"
            )
        return self.__dict__["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        self.__dict__["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        if self.__dict__.pop("qconfig", self) is self:
            raise AttributeError(f"{type(self).__name__} has no qconfig to delete")

    def __getattr__(self, name: str) -> Any:
        # all that the fusers of torch's quantisation ask of a module before they look its class up
        if (
            name == "parametrizations"
            and name not in children_so_far(self)
            and is_called_by("fuse_known_modules")
        ):
            do = 'fold it first (normsmith.surgery.fold), or normsmith.convert(model, to="torch")'
            if not self.is_batch_norm:
                do = "leave it out of what is to be fused, and it stays as it is, in floating point"
            raise SurgeryError(
                f"{where(self)}: torch's quantisation fuses torch's own batch norms only, got {type(self).__name__}; "
                f"{do}"
            )
        return super().__getattr__(name)

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
