"""Augmentation of whole batches on their device. One function a transform; what chance decides is an argument."""

import torch
from torch import Tensor
from torch.nn import functional as F

from buildup.training import draws
from buildup.training.augmentation import Augmentation, Change, EpochImages
from buildup.training.draws import Mixture

PADDING_SIZE = 32
"""The image size that a recipe's crop padding is meant for."""


def crop(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """The window of the old size that starts at a row and column of each image, which got a black border before."""
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    rows = shifts[:, 0, None, None] + torch.arange(height, device=device)[:, None]
    columns = shifts[:, 1, None, None] + torch.arange(width, device=device)
    return padded[torch.arange(count, device=device)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """The chosen images mirrored."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 pixels as floats with mean 0 and deviation 1."""
    # full() and not tensor(): a copy from the host would make every step wait for the device.
    scaled = images.float().mul_(1 / 255)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        scaled[:, channel].sub_(centre).div_(spread)
    return scaled


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box (top, bottom, left, right) set to the mean."""
    height, width = images.shape[2:]
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels as distributions, with a share of their weight spread over all classes."""
    return F.one_hot(labels, num_classes).float().mul_(1 - smoothing).add_(smoothing / num_classes)


def mix(images: Tensor, targets: Tensor, how: Mixture) -> tuple[Tensor, Tensor]:
    """A batch mixed with its reverse, in an odd one the image in the middle with itself."""
    if how.own == 1:
        return images, targets
    if how.box is None:
        images = images * how.own + images.flip(0) * (1 - how.own)
    else:
        top, bottom, left, right = how.box
        other, images = images.flip(0), images.clone()
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return images, targets * how.own + targets.flip(0) * (1 - how.own)


def _crop(padding: int, seen: EpochImages) -> Change | None:
    padding = round(padding * seen.size / PADDING_SIZE)
    if not padding:
        return None
    shifts = seen.send(draws.crop_shifts(seen.draws("crop"), seen.count, padding))
    return lambda images, here: crop(images, shifts[here], padding)


def _flip(setting: bool, seen: EpochImages) -> Change | None:
    if not seen.mirror:
        return None
    mirrored = seen.send(draws.flips(seen.draws("flip"), seen.count))
    return lambda images, here: flip(images, mirrored[here])


def _erase(probability: float, seen: EpochImages) -> Change:
    size = (seen.size, seen.size)
    boxes = seen.send(draws.erased_boxes(seen.draws("erase"), seen.count, size, probability))
    return lambda images, here: erase(images, boxes[here])


CROP = Augmentation(name="crop_padding", draw=_crop, sees="pixels")
FLIP = Augmentation(name="flip", draw=_flip, sees="pixels")
ERASING = Augmentation(name="erasing", draw=_erase)
