"""Images held as bytes."""

import torch

from normsmith import Task
from normsmith.tasks import check, fingerprint
from normsmith.tasks.images.pixels import Pixels, standardised


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8), torch.arange(count) % 2


def test_training_images_are_standardised_by_channel_and_test_images_like_them():
    pixels, labels = images(2000)  # more than are converted at once
    pixels[:, 1] //= 4
    pixels[:, 2] = 7
    train, test = standardised((pixels, labels), (255 - pixels[:10], labels[:10]))
    every = torch.stack([image for image, _ in train])
    std, mean = torch.std_mean(every, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert torch.equal(test.mean, train.mean)
    torch.testing.assert_close(test[0][0][0], (1 - pixels[0, 0] / 255 - train.mean[0]) / train.std[0])


def test_several_samples_are_those_that_come_one_by_one():
    train, _ = standardised(images(6), images(6))
    several = train.__getitems__([4, 1])
    assert [int(label) for _, label in several] == [0, 1]
    assert torch.equal(several[0][0], train[4][0])
    assert len(train) == 6


def test_a_task_takes_them():
    train, test = standardised(images(80), images(10))
    assert isinstance(train, Pixels)
    task = Task(
        model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 2)),
        train=train, test=test, loss=torch.nn.functional.cross_entropy,
        metric=lambda output, target: float((output.argmax(1) == target).float().mean()), batch_size=16,
    )  # fmt: skip
    check(task)
    assert len(fingerprint(task)) == 64
