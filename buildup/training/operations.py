"""Pillow's image operations on whole batches, with arguments for each image.

RandAugment and colour jitter consist of them. An operation takes uint8 images (images x channels x height x width) and
a float64 row of arguments for each image, on any device. Its pixels equal Pillow's:

    >>> grey = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    >>> brightness(grey, torch.tensor([[0.5]]))[0, :, 0, 0].tolist()
    [50, 50, 50]

No operation reads a value from a tensor, because that would wait for the device.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], Tensor]


def invert(images: Tensor, arguments: Tensor) -> Tensor:
    return 255 - images


def posterize(images: Tensor, arguments: Tensor) -> Tensor:
    """Keep the given number of highest bits."""
    dropped = 8 - arguments[:, :1, None, None].to(torch.int32)
    return ((images.to(torch.int32) >> dropped) << dropped).to(torch.uint8)


def solarize(images: Tensor, arguments: Tensor) -> Tensor:
    return torch.where(images < arguments[:, :1, None, None], images, 255 - images)


def solarize_add(images: Tensor, arguments: Tensor) -> Tensor:
    brighter = (images.to(torch.int32) + arguments[:, :1, None, None].to(torch.int32)).clamp_(max=255).to(torch.uint8)
    return torch.where(images < 128, brighter, images)


def auto_contrast(images: Tensor, arguments: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = (high - low).to(_wide(images))
    # torch divides a number by a tensor by way of the reciprocal, which rounds twice.
    scale = torch.full_like(span, 255) / span
    stretched = (images * scale + -low.to(span.dtype) * scale).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, arguments: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    flat = images.reshape(count * channels, height * width).contiguous()
    # A search in the sorted pixels gives the cumulative histogram: exact, and independent of the order of threads.
    ordered = flat.sort(dim=1).values.to(torch.int32)
    values = torch.arange(256, device=images.device, dtype=torch.int32).expand(len(flat), 256).contiguous()
    below = torch.searchsorted(ordered, values)
    brightest = flat.amax(1, keepdim=True).long()
    step = below.gather(1, brightest).floor_divide_(255)  # all pixels but the brightest
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    table = torch.where(step > 0, table, values.to(torch.uint8))
    return table.gather(1, flat.long()).view_as(images)


def color(images: Tensor, arguments: Tensor) -> Tensor:
    """Change the saturation: 0 for grey, 1 for the image, more above."""
    return _blend(luma(images).expand_as(images), images, arguments)


def contrast(images: Tensor, arguments: Tensor) -> Tensor:
    """Change the contrast: 0 for its mean grey, 1 for the image, more above."""
    pixels = images.shape[2] * images.shape[3]
    total = luma(images).to(torch.int64).sum((2, 3), keepdim=True)
    return _blend((2 * total + pixels) // (2 * pixels), images, arguments)


def brightness(images: Tensor, arguments: Tensor) -> Tensor:
    """Change the brightness: 0 for black, 1 for the image, brighter above."""
    return _blend(torch.zeros_like(images), images, arguments)


def sharpness(images: Tensor, arguments: Tensor) -> Tensor:
    """Change the sharpness: 0 for a smoothed image, 1 for the image, sharper above."""
    wide = images.to(torch.int32)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = wide.clone()  # Pillow leaves the border as it is
    smooth[:, :, 1:-1, 1:-1] = (2 * (around + 4 * wide[:, :, 1:-1, 1:-1]) + 13) // 26
    return _blend(smooth, images, arguments)


def affine(images: Tensor, arguments: Tensor, *, bicubic: bool, fill: tuple[int, ...]) -> Tensor:
    """Read each pixel from where a 2x3 matrix maps it; use `fill` outside of the image."""
    count, channels, height, width = images.shape
    a, b, c, d, e, f = arguments[:, :, None, None].unbind(1)
    wide = _wide(images)
    x = torch.arange(width, device=images.device, dtype=wide) + 0.5
    y = (torch.arange(height, device=images.device, dtype=wide) + 0.5)[:, None]
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    from_x, from_y = from_x - 0.5, from_y - 0.5
    left, top = from_x.floor(), from_y.floor()
    across, down = (from_x - left)[:, None], (from_y - top)[:, None]
    left, top = left.long(), top.long()
    flat = images.reshape(count, channels, height * width)

    rows = {row: (top + row).clamp_(0, height - 1).mul_(width) for row in range(-1, 3)}
    columns = {column: (left + column).clamp_(0, width - 1) for column in range(-1, 3)}

    def pixel(column: int, row: int) -> Tensor:
        places = (rows[row] + columns[column]).view(count, 1, height * width).expand(-1, channels, -1)
        return flat.gather(2, places).view(images.shape).to(wide)

    if bicubic:
        lines = [_cubic([pixel(column, row) for column in columns], across) for row in rows]
        found = _cubic(lines, down).clamp_(0, 255)
    else:
        upper, lower = (_linear(pixel(0, row), pixel(1, row), across) for row in (0, 1))
        found = _linear(upper, lower, down)
    outside = torch.empty_like(images)
    for channel, value in enumerate(fill):
        outside[:, channel] = value
    return torch.where(inside[:, None], found.to(torch.uint8), outside)


def luma(images: Tensor) -> Tensor:
    """The grey image, by Pillow's integer weights."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.to(torch.int32).chunk(3, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)


def _blend(low: Tensor, images: Tensor, arguments: Tensor) -> Tensor:
    """Interpolate from one image (factor 0) to another (factor 1) and beyond, in float32 and truncated like Pillow."""
    low = low.float()
    return (low + arguments[:, :1, None, None].float() * (images.float() - low)).clamp_(0, 255).to(torch.uint8)


def _linear(one: Tensor, two: Tensor, share: Tensor) -> Tensor:
    return one + (two - one) * share


def _cubic(points: Sequence[Tensor], share: Tensor) -> Tensor:
    """Cubic interpolation between the inner two of four points, with a = -1."""
    one, two, three, four = points
    third = -one + two - three + four
    second = 2 * (one - two) + three - four
    return two + share * (three - one + share * (second + share * third))


def _wide(images: Tensor) -> torch.dtype:
    """float64, as in Pillow. Apple's GPUs have none, and may differ by one level."""
    return torch.float32 if images.device.type == "mps" else torch.float64
