"""The policy of a forward: which statistics normalise, and whether the running ones are updated."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from torch import Tensor, nn

from normsmith._choices import check_choice
from normsmith._torch import buffers_of
from normsmith.errors import InputError
from normsmith.layers._where import where


class Policy(NamedTuple):
    """Which statistics normalise, and whether the running ones are updated.

    Whether γ and β train is not part of it: their `requires_grad` says that.
    """

    normalize_with: Literal["batch", "running"]
    update_running: bool


class HasPolicy(nn.Module):
    """A norm whose policy follows `training` as torch's does, until `freeze` pins it."""

    pinned: Policy | None
    """The policy that `freeze` has set; None where it follows `training`."""

    leaves_trace: bool
    """Whether training updates the running statistics; False within an open `without_a_trace`."""

    running_mean: Tensor | None
    track_running_stats: bool

    @property
    def policy(self) -> Policy:
        """What the next forward will do: pinned by `freeze`, else derived as torch derives it."""
        if self.pinned is not None:
            return self.pinned
        has_running = buffers_of(self)["running_mean"] is not None
        if self.training:
            return Policy("batch", self.leaves_trace and self.track_running_stats and has_running)
        return Policy("running" if has_running else "batch", False)

    def freeze(self, normalize_with: Literal["batch", "running"] = "running") -> Self:
        """Pin the statistics: no update, whatever `.train()` is called on a parent, until `unfreeze()`.

        γ and β go on training; set their `requires_grad` for that.

        Raises:
            InputError: there are no running statistics to normalise with.
        """
        check_choice("normalize_with", normalize_with, ("batch", "running"))
        if normalize_with == "running" and self.running_mean is None:
            raise InputError(
                f"{where(self)}: expected running statistics to freeze to, got a layer without any "
                '(track_running_stats=False); use freeze("batch")'
            )
        self.pinned = Policy(normalize_with, False)
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`: the policy follows `training` again."""
        self.pinned = None
        return self
