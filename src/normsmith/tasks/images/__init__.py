"""Image data sets from files that are on your disk; nothing is downloaded.

- `cifar10`: the binary or the Python version of CIFAR-10.
- `fashion_mnist`: Fashion-MNIST, and MNIST and others in its format.
- `ImageFolder`: a folder of images for each class.

The first two are held as bytes (`Pixels`) and standardised by the channels of their training images.
"""

from normsmith.tasks.images.cifar10 import cifar10
from normsmith.tasks.images.fashion_mnist import fashion_mnist
from normsmith.tasks.images.image_folder import ImageFolder
from normsmith.tasks.images.pixels import Pixels

__all__ = ["ImageFolder", "Pixels", "cifar10", "fashion_mnist"]
