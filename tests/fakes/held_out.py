"""Test images for tests, decoded, whatever a recipe would make of them."""

from buildup.training.data import open_test
from buildup.training.dataset import Dataset
from buildup.training.recipe import load_recipe


def load_test(name: str, data_dir: str | None = None, image_size: int | None = None) -> Dataset:
    """The test images of a dataset, as `load_data` gives its training images."""
    found = open_test(name, data_dir, image_size, load_recipe("quick"))
    assert isinstance(found, Dataset)
    return found
