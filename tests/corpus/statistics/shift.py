"""NS408: data in validation that are not like those in training."""

from __future__ import annotations

import torch
from tests.corpus import data, training
from tests.corpus.case import Given, case
from torch import Tensor
from torch.nn import functional as F

MAY = "403 404"


def validated_on(base: str, change: training.Loss | None, norm: str | None = None) -> Given:
    """A trained base that is validated on held-out data, changed or as they are."""
    x, y = training.samples(base)[1]
    given = training.trained(base, norm)
    changed = x if change is None else change(x, y)
    return training.around(
        given.model, base, validate=training.validation((changed, y), training.BASES[base].loss)
    )


@case(
    "CNN", must="408", may=MAY, seen="Normalize() in the training transform and not in the one for validation"
)
def normalisation_forgotten_in_validation() -> Given:
    """Validation images have grey values 0 … 16, training images mean 0 and deviation 1."""
    images, labels = data.raw_digits()
    given = training.trained("cnn")
    held_out = data.split((images.reshape(-1, 1, 8, 8), labels))[1]
    return training.around(given.model, "cnn", validate=training.validation(held_out, F.cross_entropy))


@case("Hugging Face", must="408", may=MAY, seen="another scanner, camera or hospital in the test set")
def another_camera() -> Given:
    """Validation images are brighter and of lower contrast."""
    return validated_on("hf", lambda x, _: 0.4 * x + 1.5)


@case("RNN", must="408", may=MAY, seen="recordings of another microphone or at another gain")
def another_gain() -> Given:
    """Held-out sequences have three times the amplitude."""
    return validated_on("gru", lambda x, _: 3 * x)


@case(
    "transformer-like",
    must="408",
    may=MAY,
    seen="BGR in training, RGB in evaluation; light and dark exchanged",
)
def inverted_in_validation() -> Given:
    """Held-out images are inverted."""
    return validated_on("transformer", lambda x, _: -x)


@case("MLP", must_not="408")
def same_distribution() -> Given:
    """Held-out samples of the same data."""
    return validated_on("mlp", None)


@case("CNN", must_not="408")
def mild_noise_in_validation() -> Given:
    """Held-out images with a little noise, far less than their own spread."""
    return validated_on("cnn", lambda x, _: x + 0.05 * torch.randn(x.shape))


@case("MONAI", must_not="408")
def small_validation_set() -> Given:
    """One batch of held-out images."""
    x, y = training.samples("monai")[1]
    given = training.trained("monai")
    validate = training.validation((x[:64], y[:64]), training.BASES["monai"].loss)
    return training.around(given.model, "monai", validate=validate)


@case("Hugging Face", must_not="408 306")
def augmentation_in_training_alone() -> Given:
    """Training images are moved by a pixel at random, validation images are not: about the same statistics."""

    def moved(x: Tensor) -> Tensor:
        return torch.roll(x, int(torch.randint(-1, 2, ())), 3)

    given = training.trained("hf")
    batches = [(moved(x), y) for x, y in given.batches or ()]
    return training.around(training.train(given.model, batches, 40, rate=1e-3), "hf", batches=batches)
