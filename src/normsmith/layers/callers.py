"""Who reads an attribute of a layer: tools of torch that say so in no other way."""

from __future__ import annotations

import sys
from types import FrameType

_NEXT = 12


def is_called_by(name: str) -> bool:
    """Whether a function whose name begins so is among the next callers of the code that asks.

    >>> def convert_anything():
    ...     return (lambda: is_called_by("convert"))()
    >>> convert_anything(), (lambda: is_called_by("convert"))()
    (True, False)
    """
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_NEXT):
        if frame is None:
            return False
        if frame.f_code.co_name.startswith(name):
            return True
        frame = frame.f_back
    return False
