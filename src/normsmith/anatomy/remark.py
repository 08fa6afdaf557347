"""What is said of a module that stays as it is: because it should, or because it cannot be changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from normsmith._text import path_text

_R = TypeVar("_R", bound="Remark")


@dataclass(frozen=True)
class Remark:
    """A module, by its path, that is rightly left as it is, and the reason."""

    path: str
    reason: str

    @property
    def text(self) -> str:
        """The module and the reason, as messages list them.

        >>> Remark("", "frozen by momentum=0").text
        '(model): frozen by momentum=0'
        """
        return f"{path_text(self.path)}: {self.reason}"

    def at(self: _R, path: str) -> _R:
        """The same, said of the module at `path`.

        >>> Refusal("", "it is on the meta device").at("layer1.norm")
        Refusal(path='layer1.norm', reason='it is on the meta device')
        """
        return replace(self, path=path)


@dataclass(frozen=True)
class Refusal(Remark):
    """A module, by its path, that should be changed and cannot be, and the reason.

    Functions return it in the place of a result; where they do not know the module's path, it is empty.
    """
