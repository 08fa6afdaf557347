"""What every batch norm layer shares: its running statistics, and the policy of their use and update."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _LazyNormBase, _NormBase

from normsmith._choices import check_choice
from normsmith._torch import buffers_of, parameters_of
from normsmith.errors import InputError, SurgeryError
from normsmith.layers._recompute import Seen, is_recomputing, recall, remember, will_be_recomputed
from normsmith.layers._symbolic import is_symbol, node
from normsmith.layers._where import where
from normsmith.ops import Moments, Renorm, Running, Sync, batch_norm, commit, concatenate, merge, own_group

STATISTICS = ("running_mean", "running_var", "running_std")


class Policy(NamedTuple):
    """Which statistics normalise, and whether the running ones are updated. (Whether γ and β train is theirs.)"""

    normalize_with: Literal["batch", "running"]
    update_running: bool


class StatisticsBase(_NormBase):
    """A torch norm (its parameters, buffers and state dict) that runs on `normsmith.ops.batch_norm`.

    Running buffers never fall below float32, whatever `.half()`, `.bfloat16()` or a checkpoint says.
    """

    spatial: tuple[int, ...] = ()
    """How many dimensions may follow (batch, channels)."""

    activation: str | None = None

    def __init__(
        self,
        *torch_arguments: Any,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
        **torch_options: Any,
    ) -> None:
        # torch's own arguments go through as they are: the constructor is that of the installed torch
        super().__init__(*torch_arguments, **torch_options)
        self._configure(ghost_batch_size, process_group, on_small_batch, on_nonfinite)
        self._at_least_float32()

    def _configure(
        self,
        ghost_batch_size: int | None,
        process_group: dist.ProcessGroup | Literal["world"] | None,
        on_small_batch: Literal["error", "running"],
        on_nonfinite: Literal["skip", "propagate"],
    ) -> None:
        check_choice("on_small_batch", on_small_batch, ("error", "running"))
        check_choice("on_nonfinite", on_nonfinite, ("skip", "propagate"))
        size = ghost_batch_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise InputError(f"ghost_batch_size: expected a positive whole number or None, got {size!r}")
        if isinstance(process_group, str) and process_group != "world":
            raise InputError(
                f"process_group: expected a process group, 'world' or None, got {process_group!r}"
            )
        self.ghost_batch_size = size
        self.process_group = process_group
        self.on_small_batch = on_small_batch
        self.on_nonfinite = on_nonfinite
        self._pinned: Policy | None = None
        self._context_mask: Tensor | None = None
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
        if is_symbol(input):
            return node(self, input, mask, sample_weight, residual)
        try:
            self._check_input_dim(input)
            return self._normalise(input, self._goes_by(mask), sample_weight, residual)
        except InputError as error:
            raise InputError(f"{where(self)}: {error}") from None

    @property
    def policy(self) -> Policy:
        """What the next forward will do: pinned by `freeze`, else derived as torch derives it."""
        if self._pinned is not None:
            return self._pinned
        if self.training:
            return Policy("batch", self.track_running_stats and buffers_of(self)["running_mean"] is not None)
        return Policy("batch" if buffers_of(self)["running_mean"] is None else "running", False)

    def freeze(self, normalize_with: Literal["batch", "running"] = "running") -> StatisticsBase:
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
        self._pinned = Policy(normalize_with, False)
        return self

    def unfreeze(self) -> StatisticsBase:
        """Undo `freeze`: the policy follows `training` again."""
        self._pinned = None
        return self

    def _goes_by(self, mask: Tensor | None) -> Seen:
        """The statistics, bounds and mask of this forward; those of its original where it is recomputed."""
        eager = not torch.compiler.is_compiling()
        again = eager and is_recomputing()
        if again:
            seen = recall(self)
            if seen is not None:
                return seen
        normalize_with, update_running = self.policy
        seen = Seen(
            self._running(),
            self._bounds() if normalize_with == "batch" else None,
            self._context_mask if mask is None else mask,
            normalize_with,
            update_running and not again,
        )
        if eager and will_be_recomputed():
            remember(self, seen._replace(running=_copied(seen.running), update_running=False))
        return seen

    def _normalise(
        self, x: Tensor, seen: Seen, sample_weight: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        running, renorm, mask, normalize_with, update_running = seen
        mean, var, std, batches = (None, None, None, None) if running is None else running
        return batch_norm(
            x,
            mean,
            var,
            self._learned("weight"),
            self._learned("bias"),
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

    def _learned(self, name: str) -> Tensor | None:
        """γ or β; parametrized, pruned and replicated layers have attributes in the place of parameters."""
        try:
            return parameters_of(self)[name]
        except KeyError:
            found: Tensor | None = getattr(self, name)
            return found

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
        missed = self._missed_by_fusers()
        if missed is not None:
            raise InputError(
                f"{type(self).__name__} has no eps: torch's fusers read that to fold a plain batch norm, and would "
                f"drop {missed}; read epsilon, and fold with normsmith.surgery"
            )
        return self._epsilon

    @eps.setter
    def eps(self, value: float) -> None:
        self._epsilon = value

    def _missed_by_fusers(self) -> str | None:
        """What evaluation does beyond torch's formula."""
        if self._pinned is not None and self._pinned.normalize_with == "batch":
            return "the statistics frozen to the batch's"
        return "the running standard deviation" if "running_std" in buffers_of(self) else None

    def _running(self) -> Running | None:
        buffers = buffers_of(self)
        mean, var = buffers["running_mean"], buffers["running_var"]
        if mean is None or var is None:
            return None
        return Running(mean, var, buffers.get("running_std"), buffers["num_batches_tracked"])

    def _synchronised(self) -> Sync | None:
        """The ranks that share statistics: a group of this layer's own, made at its first training forward."""
        if self.process_group is None or not self.training:
            return None
        if self._sync is None:
            if not (dist.is_available() and dist.is_initialized()):
                raise InputError(
                    "process_group: expected torch.distributed to be initialised before the first training "
                    "forward, got no default group; call torch.distributed.init_process_group, or drop "
                    "process_group"
                )
            parent = dist.group.WORLD if self.process_group == "world" else self.process_group
            if not isinstance(parent, dist.ProcessGroup):
                raise InputError(f"process_group: expected a process group, got {parent!r}")
            self._sync = Sync(own_group(parent, lambda: where(self)), lambda: where(self))
        return self._sync

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

    def extra_repr(self) -> str:
        """Torch's settings, then ours where they are not the default."""
        shown = [
            f"{self.num_features}, eps={self.epsilon}, momentum={self.momentum}, affine={self.affine}",
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}",
        ]
        defaults = {
            "ghost_batch_size": None,
            "process_group": None,
            "on_small_batch": "error",
            "on_nonfinite": "skip",
        }
        settings = {name: getattr(self, name) for name in defaults}
        shown += [f"{name}={value!r}" for name, value in settings.items() if value != defaults[name]]
        if self._pinned is not None:
            shown.append(f"frozen to {self._pinned.normalize_with} statistics")
        return ", ".join(shown)

    @property
    def qconfig(self) -> Any:
        """What torch's converters and quantisation leave on a module; refused where they would change it.

        `convert_sync_batchnorm` and the quantisation fusers build a plain batch norm from what they know of one,
        and ask for this attribute: a layer that does more says so here, instead of losing it silently.

        Raises:
            SurgeryError: the layer does what torch's batch norm cannot.
        """
        self._refuse_torch_converters()
        if "_qconfig" not in self.__dict__:
            raise AttributeError("qconfig")
        return self.__dict__["_qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        if value is not None:
            self._refuse_torch_converters()
        self.__dict__["_qconfig"] = value

    def _refuse_torch_converters(self) -> None:
        beyond = self._beyond_torch()
        if beyond is not None:
            raise SurgeryError(
                f"{where(self)}: torch's converters expect a plain batch norm and would silently drop {beyond} of "
                f"this {type(self).__name__}; use process_group=... to synchronise it, normsmith.surgery to change it"
            )

    def _beyond_torch(self) -> str | None:
        """What a conversion to torch's batch norm would lose."""
        settings = {
            "ghost_batch_size": self.ghost_batch_size is not None,
            "process_group": self.process_group is not None,
            "the frozen statistics": self._pinned is not None,
            "on_small_batch": self.on_small_batch != "error",
        }
        return next((name for name, used in settings.items() if used), None)

    def __getstate__(self) -> dict[str, Any]:
        # what belongs to this process or to an open `with` stays here
        return {**self.__dict__, "_sync": None, "_collected": None, "_context_mask": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> StatisticsBase:
        if not isinstance(self.process_group, str) and self.process_group is not None:
            memo[id(self.process_group)] = self.process_group  # a copy talks to the same ranks
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state: Any = copy.deepcopy(self.__getstate__(), memo)
        nn.Module.__setstate__(twin, state)  # type: ignore[no-untyped-call]
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StatisticsBase:
        before = {name: buffers_of(self).get(name) for name in STATISTICS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = buffers_of(self).get(name)
            if old is not None and new is not None and _is_below_float32(new):
                # from the old values: their digits would be gone in half precision
                buffers_of(self)[name] = old.to(device=new.device, dtype=torch.float32)
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._at_least_float32()

    def _at_least_float32(self) -> None:
        for name in STATISTICS:
            buffer = buffers_of(self).get(name)
            if buffer is not None and _is_below_float32(buffer) and not torch.nn.parameter.is_lazy(buffer):
                buffers_of(self)[name] = buffer.float()


class LazyBase(_LazyNormBase):
    """What our lazy layers add to torch's: settings, and buffers of float32 at least once they exist."""

    def __init__(
        self,
        *torch_arguments: Any,
        ghost_batch_size: int | None = None,
        process_group: dist.ProcessGroup | Literal["world"] | None = None,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
        **torch_options: Any,
    ) -> None:
        super().__init__(*torch_arguments, **torch_options)
        self._configure(ghost_batch_size, process_group, on_small_batch, on_nonfinite)  # type: ignore[operator]

    def initialize_parameters(self, input: Tensor, *_: Any, **__: Any) -> None:
        """Take the number of channels from the first input."""
        if input.ndim < 2:
            raise InputError(
                f"{type(self).__name__}: expected an input of shape (batch, channels, ...), "
                f"got {tuple(input.shape)}"
            )
        super().initialize_parameters(input)
        if self.num_features == 0:
            # nothing was left to initialise: a checkpoint came first, or the layer holds no tensors
            held = next((tensor for tensor in (self.running_mean, self.weight) if tensor is not None), None)
            self.num_features = input.shape[1] if held is None else len(held)
        self._at_least_float32()  # type: ignore[operator]


def _copied(running: Running | None) -> Running | None:
    if running is None:
        return None
    mean, var, std, _ = running
    return Running(mean.detach().clone(), var.detach().clone(), None if std is None else std.detach().clone())


def _is_below_float32(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4
