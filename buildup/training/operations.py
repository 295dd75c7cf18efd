"""What Pillow does to one image, on whole batches and with an argument for each image.

timm's RandAugment and colour jitter are made of these. Each operation takes uint8 images (images x channels x height x
width) and a float64 row of arguments for each, on any device, and gives the pixels that Pillow gives:

    >>> grey = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    >>> brightness(grey, torch.tensor([[0.5]]))[0, :, 0, 0].tolist()
    [50, 50, 50]

No operation waits for the device, so none asks a tensor for a value.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], Tensor]


def invert(images: Tensor, arguments: Tensor) -> Tensor:
    """The negative."""
    return 255 - images


def posterize(images: Tensor, arguments: Tensor) -> Tensor:
    """Only so many of the highest bits."""
    dropped = 8 - _column(arguments, 0).to(torch.int32)
    return ((images.to(torch.int32) >> dropped) << dropped).to(torch.uint8)


def solarize(images: Tensor, arguments: Tensor) -> Tensor:
    """The negative of the pixels that are not below a threshold."""
    return torch.where(images < _column(arguments, 0), images, 255 - images)


def solarize_add(images: Tensor, arguments: Tensor) -> Tensor:
    """Dark pixels, those below 128, made brighter."""
    brighter = (images.to(torch.int32) + _column(arguments, 0).to(torch.int32)).clamp_(max=255).to(torch.uint8)
    return torch.where(images < 128, brighter, images)


def auto_contrast(images: Tensor, arguments: Tensor) -> Tensor:
    """Each channel stretched until it is both black and white somewhere."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = (high - low).to(_wide(images))
    # A number over a tensor would be its reciprocal times the number, which is rounded twice.
    scale = torch.full_like(span, 255) / span
    stretched = (images * scale + -low.to(span.dtype) * scale).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, arguments: Tensor) -> Tensor:
    """Each channel with its brightnesses spread as evenly as its histogram allows."""
    count, channels, height, width = images.shape
    flat = images.reshape(count * channels, height * width).contiguous()
    # Of sorted pixels, a search gives the running sum of the histogram: exact, and the same in any order of threads.
    ordered = flat.sort(dim=1).values.to(torch.int32)
    values = torch.arange(256, device=images.device, dtype=torch.int32).expand(len(flat), 256).contiguous()
    below = torch.searchsorted(ordered, values)
    brightest = flat.amax(1, keepdim=True).long()
    step = below.gather(1, brightest).floor_divide_(255)  # all pixels but the brightest
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    table = torch.where(step > 0, table, values.to(torch.uint8))
    return table.gather(1, flat.long()).view_as(images)


def color(images: Tensor, arguments: Tensor) -> Tensor:
    """Between the grey image (0), the image (1) and more colour than it has (above)."""
    return _blend(luma(images).expand_as(images), images, arguments)


def contrast(images: Tensor, arguments: Tensor) -> Tensor:
    """Between its mean grey (0), the image (1) and more contrast than it has (above)."""
    pixels = images.shape[2] * images.shape[3]
    total = luma(images).to(torch.int64).sum((2, 3), keepdim=True)
    return _blend((2 * total + pixels) // (2 * pixels), images, arguments)


def brightness(images: Tensor, arguments: Tensor) -> Tensor:
    """Between black (0), the image (1) and brighter than it is (above)."""
    return _blend(torch.zeros_like(images), images, arguments)


def sharpness(images: Tensor, arguments: Tensor) -> Tensor:
    """Between a smoothed image (0), the image (1) and sharper than it is (above)."""
    wide = images.to(torch.int32)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = wide.clone()  # Pillow leaves the border as it is
    smooth[:, :, 1:-1, 1:-1] = (2 * (around + 4 * wide[:, :, 1:-1, 1:-1]) + 13) // 26
    return _blend(smooth, images, arguments)


def affine(images: Tensor, arguments: Tensor, *, bicubic: bool, fill: tuple[int, ...]) -> Tensor:
    """Each pixel fetched from where a 2x3 matrix sends it, and `fill` where that is outside."""
    count, channels, height, width = images.shape
    a, b, c, d, e, f = (_column(arguments, index)[:, 0] for index in range(6))
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
    """The grey image, by Pillow's weights in whole numbers."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.to(torch.int32).chunk(3, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)


def _blend(low: Tensor, images: Tensor, arguments: Tensor) -> Tensor:
    """From one image at factor 0 to another at factor 1 and beyond; Pillow computes it in float32, and cuts off."""
    low = low.float()
    return (low + _column(arguments, 0).float() * (images.float() - low)).clamp_(0, 255).to(torch.uint8)


def _linear(one: Tensor, two: Tensor, share: Tensor) -> Tensor:
    return one + (two - one) * share


def _cubic(points: Sequence[Tensor], share: Tensor) -> Tensor:
    """The cubic through the inner two of four points, with the slopes that their neighbours give (a = -1)."""
    one, two, three, four = points
    third = -one + two - three + four
    second = 2 * (one - two) + three - four
    return two + share * (three - one + share * (second + share * third))


def _column(arguments: Tensor, index: int) -> Tensor:
    return arguments[:, index, None, None, None]


def _wide(images: Tensor) -> torch.dtype:
    """float64, as Pillow computes; Apple's GPUs have none, and may differ from it by one level."""
    return torch.float32 if images.device.type == "mps" else torch.float64
