"""NS305: frozen by requires_grad alone, so that running statistics go on moving."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.optim import Optimizer

MAY = "202 210 309 403 404 408"


def head_only(model: nn.Module) -> Optimizer:
    """The optimizer of those who fine-tune: over what still has gradients."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def inverted(base: str, size: int = data.SIZE) -> list[Any]:
    """The base's batches with light and dark exchanged: the new data of a transfer."""
    return [(-x, y) for x, y in data.batches(training.samples(base)[0], size, most=10)]


def transfer(model: nn.Module, base: str, **changes: Any) -> Given:
    """A model that is fine-tuned on new data."""
    return training.around(model, base, batches=inverted(base), optimizer=head_only, validate=None, **changes)


def without_gradients(model: nn.Module, *, but: str) -> nn.Module:
    """Switch gradients off for all parameters but those under a name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(but))
    return model


@case(
    "CNN", must="305", may=MAY, seen="transfer learning by `param.requires_grad = False` and `model.train()`"
)
def backbone_frozen_by_requires_grad() -> Given:
    """The convolutional backbone has no gradients, but its norms are in training mode and follow the new data."""
    return transfer(without_gradients(training.trained("cnn").model, but="head"), "cnn")


@case(
    "Hugging Face",
    must="305",
    may=MAY,
    seen="`for p in model.base_model.parameters(): p.requires_grad = False`",
)
def hf_backbone_frozen_by_requires_grad() -> Given:
    """A Hugging Face backbone frozen by its parameters alone, its classifier trained."""
    return transfer(without_gradients(training.trained("hf").model, but="model.classifier"), "hf")


@case("MLP", must="305", may=MAY, seen="adapters trained behind a frozen encoder whose statistics drift away")
def encoder_frozen_before_an_adapter() -> Given:
    """An MLP is frozen by requires_grad; a new head is trained on it, in training mode as a whole."""
    encoder = training.trained("mlp").model[:-1].requires_grad_(False)
    return transfer(nn.Sequential(encoder, nn.Linear(48, 10)), "mlp")


def thawed_by_train(base: str) -> Given:
    """Norms are put into evaluation mode once before training; the loop's `model.train()` undoes it."""
    given = training.trained(base)
    for norm in networks.norms(given.model).values():
        norm.eval().requires_grad_(False)

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        training.step(model, next(iter(batches)), optimizer)

    model = given.model
    prepared = transfer(model, base, training_step=training_step)
    for norm in networks.norms(model).values():
        norm.eval()
    return prepared


@case(
    "RNN",
    must="305",
    may=MAY,
    seen="norms frozen by a loop of `.eval()` before the first epoch, and `model.train()` in it",
)
def norms_of_a_gru_thawed_by_train() -> Given:
    """The norms were frozen (no gradients, evaluation mode), and every step calls train() on the whole."""
    return thawed_by_train("gru")


@case(
    "transformer-like",
    must="305",
    may=MAY,
    seen="detection and segmentation code: 'my frozen BN is not frozen'",
)
def norms_of_a_transformer_thawed_by_train() -> Given:
    """As for the GRU: set to evaluation mode once, thawed by the training step."""
    return thawed_by_train("transformer")


class Frozen(nn.Module):
    """A frozen backbone with a head to train: the backbone stays in evaluation mode whatever is called."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone.requires_grad_(False), head

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


@case("MLP", must_not="305 309 210 207")
def backbone_frozen_on_purpose() -> Given:
    """No gradients, evaluation mode kept by a train() of one's own: frozen as it should be."""
    encoder = training.trained("mlp").model[:-1]
    model = training.fitted(Frozen(encoder, nn.Linear(48, 10)), "mlp", steps=40).model
    return training.around(model, "mlp", optimizer=head_only)


@case("Hugging Face", must_not="305 309 210")
def hf_norms_frozen_on_purpose() -> Given:
    """All batch norms pinned, statistics and γ, β alike; the convolutions train, as in detection."""
    model = networks.FrozenNorms(training.trained("hf").model)
    return training.around(model, "hf", optimizer=head_only)


@case("CNN", must_not="305 309 210")
def frozen_by_surgery() -> Given:
    """A convolutional backbone frozen by normsmith's own freeze, γ and β included."""
    from normsmith import surgery

    model = surgery.freeze(training.trained("cnn").model, what="both").apply()
    return training.around(model, "cnn", optimizer=head_only)


@case("transformer-like", must_not="305")
def layer_norms_frozen_by_requires_grad() -> Given:
    """Group norms have no running statistics: to take their gradients away is to freeze them."""
    model = training.trained("transformer", "group").model
    return training.around(without_gradients(model, but="head"), "transformer", optimizer=head_only)


@case("RNN", must_not="305 309")
def network_in_evaluation_behind_a_head() -> Given:
    """A frozen recurrent encoder in evaluation mode, trained head; the step keeps the encoder there."""
    model = Frozen(training.trained("gru").model, nn.Linear(10, 10))

    def training_step(model: nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        training.step(model, next(iter(batches)), optimizer)

    fitted = training.fitted(model, "gru", steps=40).model
    return training.around(fitted, "gru", optimizer=head_only, training_step=training_step)


@case("Hugging Face", must_not="305 309 210 207 405")
def frozen_norms_of_detr() -> Given:
    """Hugging Face's own frozen batch norms in place of all others: buffers alone, which nothing updates."""
    from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

    model = training.trained("hf").model
    for path, norm in networks.norms(model).items():
        frozen = DetrFrozenBatchNorm2d(norm.num_features)
        frozen.load_state_dict(norm.state_dict())
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, frozen)
    return training.around(model, "hf")
