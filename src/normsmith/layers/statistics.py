"""What every batch norm layer shares: its running statistics, and the policy of their use and update."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normsmith._choices import check_choice
from normsmith._torch import NORMS_TAKE_BIAS, NormBase, buffers_of, compiler_callback, parameters_of
from normsmith.errors import InputError
from normsmith.layers._layouts import call_strided, is_strided
from normsmith.layers._recompute import ForwardState, state_of_forward
from normsmith.layers._symbolic import call_in_graph, is_symbol
from normsmith.layers._where import where
from normsmith.layers.converters import RefusesConverters
from normsmith.layers.copies import Copyable
from normsmith.layers.ours import Ours
from normsmith.layers.policy import HasPolicy
from normsmith.layers.precision import Float32Statistics
from normsmith.layers.prepared import HasPreparedCalls, PreparedCalls
from normsmith.layers.ranks import SharesStatistics, check_process_group
from normsmith.layers.scripted import stand_in
from normsmith.ops import Moments, Renorm, Running, Sync, batch_norm, commit, concatenate, merge

_DEFAULTS = {
    "ghost_batch_size": None,
    "process_group": None,
    "on_small_batch": "error",
    "on_nonfinite": "skip",
}


class Normalised(NamedTuple):
    """What a call of a layer normalises: a batch of shape (batch, channels, *space), and which of it counts."""

    x: Tensor
    mask: Tensor | None
    sample_weight: Tensor | None


class StatisticsBase(
    HasPolicy,
    SharesStatistics,
    Float32Statistics,
    Copyable,
    RefusesConverters,
    HasPreparedCalls,
    Ours,
    NormBase,
):
    """A torch norm (its parameters, buffers and state dict) that runs on `normsmith.ops.batch_norm`."""

    spatial: tuple[int, ...] = ()
    """How many dimensions may follow (batch, channels)."""

    is_batch_norm: ClassVar[bool] = True
    """Whether it normalises channels one by one, as torch's batch norm does: another batch norm can replace it."""

    unmeasurable: ClassVar[str | None] = None
    """Why no pass over data can measure the running statistics; None where one can."""

    activation: str | None = None

    context_mask: Tensor | None
    """The mask of an open `use_mask`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **torchs_bias(bias)
        )
        self._configure(ghost_batch_size, process_group, on_small_batch, on_nonfinite)
        self._at_least_float32()

    def _configure(
        self,
        ghost_batch_size: int | None,
        process_group: dist.ProcessGroup | Literal["world"] | None,
        on_small_batch: Literal["error", "running"],
        on_nonfinite: Literal["skip", "propagate"],
    ) -> None:
        """Check and keep the settings that torch's layers do not have; nothing is pinned or masked yet."""
        check_choice("on_small_batch", on_small_batch, ("error", "running"))
        check_choice("on_nonfinite", on_nonfinite, ("skip", "propagate"))
        _check_ghost_batch_size(ghost_batch_size)
        check_process_group(process_group)
        self.ghost_batch_size = ghost_batch_size
        self.process_group = process_group
        self.on_small_batch = on_small_batch
        self.on_nonfinite = on_nonfinite
        self.pinned = None
        self.context_mask = None
        self.leaves_trace = True
        self._collected: list[Moments] | None = None
        self._sync: Sync | None = None

    def forward(
        self,
        input: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Normalise a batch.

        Args:
            input: shape (batch, channels, *space), floating point; the output has its dtype.
            mask: bool or 0/1 integers, True = valid, the shape of the input without channels, broadcastable.
            sample_weight: ≥ 0, shape (batch,) or that of the input without channels.
            residual: shape of the input, added to the result.

        Raises:
            InputError: an argument does not fit. The running statistics are then as they were.
        """
        compiled = torch.compiler.is_dynamo_compiling() or compiler_callback() is not None
        calls: PreparedCalls | None = None if compiled else getattr(self, "_prepared_calls", None)
        if calls is not None and mask is None and sample_weight is None:
            y = calls.run(self, input, residual)
            if y is not None:
                return y
        if is_symbol(input):
            return call_in_graph(self, input, mask, sample_weight, residual)
        if not is_strided(input):
            return call_strided(self, input, mask, sample_weight, residual)
        try:
            self._check_input_dim(input)
            return self._normalise(input, self._state_of_forward(mask), sample_weight, residual)
        except InputError as error:
            raise InputError(f"{where(self)}: {error.args[0]}") from None

    @classmethod
    def prepares_calls(cls) -> bool:
        """Whether a forward of this class is what prepared calls compute: it is ours, and has no forward of its own."""
        return cls.is_ours and cls.forward is StatisticsBase.forward

    @property
    def is_accumulating(self) -> bool:
        """Whether the layer is inside an open `accumulate`, which updates its running statistics at the end."""
        return self._collected is not None

    def normalised(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        sample_weight: Tensor | None = None,
        *,
        default_mask: Tensor | None = None,
    ) -> Normalised:
        """What a forward with these arguments normalises.

        Without a mask among them it is `default_mask`, or else that of an open `use_mask`.
        """
        if mask is None:
            mask = self.context_mask if default_mask is None else default_mask
        return Normalised(x, mask, sample_weight)

    def _state_of_forward(self, mask: Tensor | None) -> ForwardState:
        """The statistics, bounds and mask of this forward; those of its original where it is recomputed."""

        def current() -> ForwardState:
            policy = self.policy
            return ForwardState(
                self._running(),
                self._bounds() if policy.normalize_with == "batch" else None,
                self.context_mask if mask is None else mask,
                *policy,
            )

        return state_of_forward(self, current)

    def _normalise(
        self, x: Tensor, state: ForwardState, sample_weight: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        """Call the operation with the settings of the layer and the state of this forward."""
        running, renorm, mask, normalize_with, update_running = state
        mean, var, std, batches = (None, None, None, None) if running is None else running
        weight, bias = self._weight_and_bias()
        return batch_norm(
            x,
            mean,
            var,
            weight,
            bias,
            normalize_with=normalize_with,
            update_running=update_running,
            momentum=self.momentum,
            eps=self.epsilon,
            num_batches_tracked=batches,
            running_std=std,
            mask=mask,
            sample_weight=sample_weight,
            ghost_batch_size=self.ghost_batch_size,
            renorm=renorm,
            activation=self.activation,
            residual=residual,
            on_small_batch=self.on_small_batch,
            on_nonfinite=self.on_nonfinite,
            sync=self._synchronised() if normalize_with == "batch" else None,
            collected=self._collected if update_running else None,
        )

    def _weight_and_bias(self) -> tuple[Tensor | None, Tensor | None]:
        """γ and β, which in parametrized, pruned and replicated layers are attributes and no parameters."""
        parameters = parameters_of(self)
        try:
            return parameters["weight"], parameters["bias"]
        except KeyError:
            return self.weight, self.bias

    def _lost_by_fusers(self) -> str | None:
        if self.pinned is not None and self.pinned.normalize_with == "batch":
            return "the statistics frozen to the batch's"
        return "the running standard deviation" if "running_std" in buffers_of(self) else None

    def _running(self) -> Running | None:
        """The running statistics: the buffers themselves, which an update writes into."""
        buffers = buffers_of(self)
        mean, var = buffers["running_mean"], buffers["running_var"]
        if mean is None or var is None:
            return None
        return Running(mean, var, buffers.get("running_std"), buffers["num_batches_tracked"])

    def _synchronised(self) -> Sync | None:
        """The ranks that share statistics; their group is made at the first training forward."""
        if self.process_group is None or not self.training:
            return None
        return self.join()

    def commit_collected(self, collected: list[Moments]) -> None:
        """One update of the running statistics from the moments of several micro-batches."""
        running = self._running()
        if not collected or running is None:
            return
        together = concatenate(collected)
        ghost = self.ghost_batch_size is not None
        with torch.no_grad():
            commit(
                running,
                together if ghost else merge(together),
                momentum=self.momentum,
                eps=self.epsilon,
                on_nonfinite=self.on_nonfinite,
                sync=self._synchronised() if ghost else None,
            )

    def _bounds(self) -> Renorm | None:
        """Bounds of batch renormalization at this step; None in plain batch norm."""
        return None

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() - 2 not in self.spatial:
            expected = [2 + dimensions for dimensions in self.spatial]
            raise InputError(
                f"{type(self).__name__}: expected a {' or '.join(f'{n}-D' for n in expected)} input, "
                f"(batch, channels{', ...' if expected[-1] > 2 else ''}), got shape {tuple(x.shape)}"
            )
        if x.shape[1] != self.num_features:
            raise InputError(
                f"{type(self).__name__}: expected {self.num_features} channels in dimension 1, "
                f"got shape {tuple(x.shape)}; channels come second"
            )

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles in the place of the layer: torch's, in evaluation."""
        if type(self).forward is not StatisticsBase.forward:
            return self  # a class of others, with a forward of its own
        return stand_in(self, plain=self.activation is None and self._lost_by_converters() is None)

    def extra_repr(self) -> str:
        """Torch's settings, then ours where they are not the default."""
        shown = [
            f"{self.num_features}, eps={self.epsilon}, momentum={self.momentum}, affine={self.affine}",
            *([f"bias={self.bias is not None}"] if NORMS_TAKE_BIAS else []),
            f"track_running_stats={self.track_running_stats}",
        ]
        settings = {name: getattr(self, name) for name in _DEFAULTS}
        shown += [f"{name}={value!r}" for name, value in settings.items() if value != _DEFAULTS[name]]
        if self.pinned is not None:
            shown.append(f"frozen to {self.pinned.normalize_with} statistics")
        return ", ".join(shown)

    def _lost_by_converters(self) -> str | None:
        settings = {
            "ghost_batch_size": self.ghost_batch_size is not None,
            "process_group": self.process_group is not None,
            "the frozen statistics": self.pinned is not None,
            "on_small_batch": self.on_small_batch != "error",
        }
        return next((name for name, used in settings.items() if used), None)


def torchs_bias(bias: bool) -> dict[str, bool]:
    """The argument `bias` of the installed torch's norms, or none where they do not know it.

    Raises:
        InputError: no bias is wanted, of a torch whose norms always have one beside γ.
    """
    if not NORMS_TAKE_BIAS and not bias:
        raise InputError(
            f"bias: expected True, got {bias!r}: the batch norms of torch {torch.__version__} know no γ without β; "
            "use a newer torch, or affine=False for neither"
        )
    return {"bias": bias} if NORMS_TAKE_BIAS else {}


def _check_ghost_batch_size(size: object) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"ghost_batch_size: expected a positive whole number or None, got {size!r}")
