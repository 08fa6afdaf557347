"""NS413: files of weights without the statistics that belong to them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case

State = dict[str, Any]


def saved(base: str, state: State, norm: str | None = None) -> Given:
    """A healthy network, with a file of it."""
    return training.around(training.trained(base, norm).model, base, saved=state)


def state_of(base: str, norm: str | None = None) -> State:
    """The state of a trained base, as a plain dictionary of copies."""
    return dict(copy.deepcopy(training.trained(base, norm).model).state_dict())


@case(
    "CNN",
    must="413",
    seen="`torch.save(dict(model.named_parameters()))`: 'validation is at chance after loading'",
)
def file_of_named_parameters() -> Given:
    """The file holds parameters alone; whoever loads it with strict=False evaluates with 0 and 1."""
    parameters = {name: p.detach() for name, p in training.trained("cnn").model.named_parameters()}
    return saved("cnn", parameters)


@case(
    "Hugging Face",
    must="413",
    seen="filters such as `if 'running' not in key` to make files small or to average them",
)
def file_with_buffers_filtered_out() -> Given:
    """All keys with `running` or `num_batches` were dropped before saving."""
    state = {
        key: value
        for key, value in state_of("hf").items()
        if "running" not in key and "num_batches" not in key
    }
    return saved("hf", state)


@case("RNN", must="413", may="405", seen="shadow weights of an EMA saved into a fresh state dict")
def file_with_initial_statistics() -> Given:
    """Trained weights with running means of 0 and variances of 1 in one file."""
    state = state_of("gru")
    fresh = networks.Gru().state_dict()
    return saved(
        "gru", {key: fresh[key] if "running" in key or "num_" in key else state[key] for key in state}
    )


@case("MLP", must="413", seen="task arithmetic and extrapolated averages over whole state dicts")
def file_with_negative_variances() -> Given:
    """Two runs were combined as 2·a − b over all keys; some variances came out negative."""
    first = state_of("mlp")
    second = training.more(training.trained("mlp"), "mlp", steps=60, rate=3e-2).model.state_dict()
    combined = {k: 2 * v - second[k] if v.is_floating_point() else v for k, v in first.items()}
    return saved("mlp", combined)


@case("MONAI", must="413", seen="files where only the encoder's statistics were kept")
def file_with_half_of_the_statistics() -> Given:
    """The statistics of one of two norms are missing."""
    state = state_of("monai")
    gone = next(key for key in state if "running_mean" in key).removesuffix("running_mean")
    return saved("monai", {k: v for k, v in state.items() if not (k.startswith(gone) and "running" in k)})


@case("CNN", must_not="413")
def file_of_the_whole_state() -> Given:
    """The state dict as it is."""
    return saved("cnn", state_of("cnn"))


@case("Hugging Face", must_not="413")
def file_without_counters() -> Given:
    """Only num_batches_tracked is missing, as in files from before torch 0.4.1; evaluation does not need it."""
    return saved("hf", {key: value for key, value in state_of("hf").items() if "num_batches" not in key})


@case("MLP", must_not="413")
def file_of_a_trainer() -> Given:
    """The state dict beside the optimizer's, with the prefix of DataParallel."""
    state = {f"module.{key}": value for key, value in state_of("mlp").items()}
    return saved("mlp", {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}})


@case("transformer-like", must_not="413")
def file_of_a_network_without_batch_norm() -> Given:
    """Group norms have no buffers, and the file has none."""
    return saved("transformer", state_of("transformer", "group"), "group")


@case("RNN", must_not="413 204")
def file_of_untracked_norms() -> Given:
    """Instance norm without running statistics: nothing is missing."""
    model = networks.Gru(lambda channels, _: torch.nn.InstanceNorm1d(channels, affine=True))
    given = training.fitted(model, "gru")
    return training.around(given.model, "gru", saved=dict(given.model.state_dict()))


@case("CNN", must_not="413")
def file_of_frozen_identities() -> Given:
    """Frozen norms whose statistics were folded into γ and β: 0 and 1 in the file are right."""
    model = training.trained("cnn").model.eval()
    for norm in networks.norms(model).values():
        with torch.no_grad():
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.sub_(norm.running_mean * scale)
            norm.weight.copy_(scale * (1 + norm.eps) ** 0.5)
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
    frozen = networks.FrozenNorms(model)
    return training.around(frozen, "cnn", saved=dict(frozen.state_dict()))


@case("Hugging Face", may="202 403 404 405", must_not="413")
def file_of_a_new_network() -> Given:
    """A network that was never trained, saved at its start: 0 and 1 are what it has."""
    model = networks.hf_resnet()
    return training.around(model, "hf", saved=dict(copy.deepcopy(model.state_dict())))
