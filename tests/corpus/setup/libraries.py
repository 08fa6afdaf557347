"""Set-ups with networks of Hugging Face and MONAI: inputs, views and micro-batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch.nn import functional as F
from torch.optim import Optimizer


def on(samples: training.Pair) -> Given:
    """Hugging Face's ResNet trained on samples of one's own."""
    training_set, held_out = data.split(samples)
    model = training.train(networks.hf_resnet(), training.epochs(training_set), 80, rate=1e-2)
    validate = training.validation(held_out, F.cross_entropy)
    batches = data.batches(training_set, most=8)
    return Given(model, batches, loss=F.cross_entropy, optimizer=training.adam, validate=validate)


@case(
    "Hugging Face",
    must="401",
    may="402 503 505",
    seen="images without the image processor: 0 … 255 in place of its normalisation",
)
def hf_without_its_image_processor() -> Given:
    """Bytes go into a network that expects what an image processor gives."""
    images, labels = data.digits("large")
    raw = 255 * (images - images.min()) / (images.max() - images.min())
    return on((raw, labels))


@case(
    "Hugging Face",
    must="203",
    may="202 401 403 404",
    seen="inputs in physical units, before a stem with batch norm",
)
def hf_on_inputs_of_a_thousandth() -> Given:
    """Inputs of 1e-4: the stem's variances are a thousand times smaller than eps."""
    images, labels = data.digits("large")
    return on((1e-4 * images, labels))


@case(
    "MONAI",
    must="310",
    may="304",
    as_information="310",
    seen="consistency losses between two noisy views, one forward each",
)
def monai_consistency_of_two_forwards() -> Given:
    """Two noisy views of a batch go through one after the other, before one backward."""

    def training_step(model: torch.nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        x, y = next(iter(batches))
        noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        optimizer.zero_grad()
        first, second = model(x), model(x + noise)
        (F.mse_loss(first, second) + F.binary_cross_entropy_with_logits(first, y)).backward()
        optimizer.step()

    return training.around(training.trained("monai").model, "monai", training_step=training_step)


@case("MONAI", must_not="303 301")
def monai_accumulation_over_large_maps() -> Given:
    """Micro-batches of two images: 128 positions and more in each channel's statistics."""

    def training_step(model: torch.nn.Module, batches: Iterable[Any], optimizer: Optimizer) -> None:
        model.train()
        optimizer.zero_grad()
        for (x, y), _ in zip(batches, range(4), strict=False):
            (F.binary_cross_entropy_with_logits(model(x), y) / 4).backward()
        optimizer.step()

    return training.fitted(networks.monai_unet(), "monai", size=2, steps=200, training_step=training_step)
