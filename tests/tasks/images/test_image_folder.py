"""Folders of images, tiny ones."""

import sys

import pytest
import torch

from normsmith import Task
from normsmith.errors import MissingExtraError, TaskError
from normsmith.tasks import ImageFolder, check

Image = pytest.importorskip("PIL.Image")


def put(path, size=(4, 4), colour=(255, 0, 0), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def root(tmp_path):
    tmp_path /= "train"
    put(tmp_path / "dog" / "b.png", size=(8, 4))
    put(tmp_path / "cat" / "a.PNG", colour=(0, 0, 255))
    put(tmp_path / "cat" / "more" / "c.jpg", colour=100, mode="L")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_classes_are_the_folders_in_order_and_images_are_squares_in_rgb(root):
    images = ImageFolder(root, 4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert images.classes == ("cat", "dog")
    assert [label for _, label in images] == [0, 0, 1]
    assert all(image.shape == (3, 4, 4) and image.dtype == torch.float32 for image, _ in images)
    assert torch.equal(images[0][0][:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(images[2][0][:, 3, 3], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(images[1][0], torch.full((3, 4, 4), 100 / 255), atol=0.02, rtol=0)


def test_images_are_cut_around_their_middle(tmp_path):
    wide = Image.new("RGB", (6, 2), (0, 0, 0))
    wide.paste((255, 255, 255), (2, 0, 4, 2))
    (tmp_path / "one").mkdir()
    wide.save(tmp_path / "one" / "wide.png")
    image, _ = ImageFolder(tmp_path, 2, mean=(0.0,) * 3, std=(1.0,) * 3)[0]
    assert torch.equal(image, torch.ones(3, 2, 2))


def test_images_are_standardised_by_what_imagenet_has_unless_told_otherwise(root):
    red = ImageFolder(root, 4)[2][0][:, 0, 0]
    torch.testing.assert_close(red, torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]))


def test_test_images_have_the_classes_of_the_training_images(root, tmp_path):
    put(tmp_path / "test" / "dog" / "z.png")
    classes = ImageFolder(root, 4).classes
    assert [label for _, label in ImageFolder(tmp_path / "test", 4, classes=classes)] == [1]
    put(tmp_path / "test" / "owl" / "z.png")
    with pytest.raises(TaskError, match="expected folders for the classes cat, dog, got also owl"):
        ImageFolder(tmp_path / "test", 4, classes=classes)


def test_a_task_takes_it(root):
    images = ImageFolder(root, 4)
    network = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))  # noqa: E731
    loss = torch.nn.functional.cross_entropy
    parts = {"train": images, "validation": images, "test": images}
    check(Task(model=network, **parts, loss=loss, metric=loss, batch_size=2))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(TaskError, match="expected a folder, found none at"):
        ImageFolder(tmp_path / "nowhere", 4)
    with pytest.raises(TaskError, match="found no folder"):
        ImageFolder(tmp_path, 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        TaskError, match=r"expected images in the folders empty, found none that ends in \.bmp"
    ):
        ImageFolder(tmp_path, 4)


def test_an_image_that_is_broken_is_named(root):
    (root / "dog" / "broken.png").write_bytes(b"no image")
    images = ImageFolder(root, 4)
    with pytest.raises(TaskError, match=r"broken.png cannot be read: UnidentifiedImageError"):
        images[3]


def test_without_pillow_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"ImageFolder needs PIL, .*normsmith\[images\]"):
        ImageFolder(root, 4)
