import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from buildup.diagnostics.image_corruptions import CHUNK, CORRUPTIONS, SEVERITIES, corrupt

NOISES = ("gaussian_noise", "shot_noise", "impulse_noise")


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    """Images whose frequencies fade as those of photographs do, from 20 to 230."""
    draws = torch.Generator().manual_seed(0)
    frequency = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()).sqrt()
    noise = torch.fft.rfft2(torch.randn(count, channels, height, width, generator=draws))
    field = torch.fft.irfft2(noise / frequency.clamp(min=1 / width), s=(height, width))
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    scaled: Tensor = (20 + 210 * (field - low) / (high - low)).round().to(torch.uint8)
    return scaled


def grey(value: int, size: int = 48, channels: int = 3) -> Tensor:
    return torch.full((4, channels, size, size), value, dtype=torch.uint8)


def distance(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).square().mean().sqrt().item()


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 32, 32), pytest.param((1, 48, 40), marks=pytest.mark.slow)])
def test_more_severity_is_farther_from_the_clean_image(kind: str, shape: tuple[int, int, int]) -> None:
    images = pictures(8, *shape)
    corrupted = [corrupt(images, kind, severity) for severity in SEVERITIES]
    away = [distance(images, other) for other in corrupted]
    assert all(other.shape == images.shape and other.dtype == torch.uint8 for other in corrupted)
    assert away[0] > 0.5
    assert all(later > 0.98 * earlier for earlier, later in pairwise(away))
    assert away[-1] > 1.1 * away[0]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_seed_decides(kind: str) -> None:
    images = pictures(3, 3, 16, 16)
    assert torch.equal(corrupt(images, kind, 3), corrupt(images, kind, 3))
    alone = corrupt(images[:1], kind, 3)
    assert distance(alone, images[:1]) > 0
    chance = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(alone, corrupt(images[:1], kind, 3, seed=1)) != chance


def test_severity_zero_changes_nothing() -> None:
    images = pictures(2, 3, 16, 16)
    assert all(torch.equal(corrupt(images, kind, 0), images) for kind in CORRUPTIONS)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noises_have_their_mean_and_variance(severity: int) -> None:
    value = 100
    x, levels = value / 255, {kind: CORRUPTIONS[kind].amounts[severity - 1] for kind in NOISES}
    share = levels["impulse_noise"]
    expected = {
        "gaussian_noise": (x, levels["gaussian_noise"] ** 2),
        "shot_noise": (x, x / levels["shot_noise"]),
        "impulse_noise": (
            (1 - share) * x + share / 2,
            (1 - share) * x**2 + share / 2 - ((1 - share) * x + share / 2) ** 2,
        ),
    }
    for kind, (mean, variance) in expected.items():
        found = corrupt(grey(value, 96), kind, severity).double() / 255
        count = found.numel()
        assert found.mean().item() == pytest.approx(mean, abs=5 * (variance / count) ** 0.5 + 2e-4), kind
        assert found.var().item() == pytest.approx(variance, rel=0.05), kind


def test_noise_of_different_images_is_different() -> None:
    two = grey(100)[:2]
    for kind in NOISES:
        one, other = corrupt(two, kind, 5)
        assert not torch.equal(one, other)


def test_impulses_are_black_or_white_and_leave_the_rest() -> None:
    found = corrupt(grey(100, 64), "impulse_noise", 5)
    assert set(found.flatten().tolist()) == {0, 100, 255}
    assert (found == 0).float().mean().item() == pytest.approx((found == 255).float().mean().item(), rel=0.1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_adds_to_the_value_and_keeps_the_hue(severity: int) -> None:
    images = pictures(4, 3, 16, 16) // 2
    added = CORRUPTIONS["brightness"].amounts[severity - 1]
    found, before = corrupt(images, "brightness", severity).double() / 255, images.double() / 255
    assert torch.allclose(found.amax(1), (before.amax(1) + added).clamp(max=1), atol=0.51 / 255)
    assert torch.allclose(found / found.amax(1, True), before / before.amax(1, True), atol=0.02)
    black = corrupt(grey(0), "brightness", severity)
    assert torch.equal(black, torch.full_like(black, round(255 * added)))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_each_channels_mean_and_scales_its_deviation(severity: int) -> None:
    images = pictures(4, 3, 32, 32)
    factor = CORRUPTIONS["contrast"].amounts[severity - 1]
    found = corrupt(images, "contrast", severity).double()
    assert torch.allclose(found.mean((2, 3)), images.double().mean((2, 3)), atol=0.5)
    assert torch.allclose(found.std((2, 3)), factor * images.double().std((2, 3)), rtol=0.02, atol=0.2)


def test_jpeg_is_what_pillow_makes_of_it() -> None:
    images = pictures(2, 3, 32, 32)
    file = io.BytesIO()
    Image.fromarray(images[1].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40)
    assert torch.equal(
        corrupt(images, "jpeg_compression", 5)[1].permute(1, 2, 0), torch.from_numpy(np.array(Image.open(file)))
    )


@pytest.mark.parametrize(
    "kind", ["defocus_blur", "motion_blur", "zoom_blur", "elastic_transform", "glass_blur", "pixelate"]
)
def test_what_only_averages_or_moves_leaves_a_plain_image(kind: str) -> None:
    assert (corrupt(grey(90), kind, 5).int() - 90).abs().max() <= 1


def test_pixels_are_means_of_equal_parts() -> None:
    image = torch.arange(0, 240, 12, dtype=torch.uint8).expand(1, 1, 20, 20)
    found = corrupt(image, "pixelate", 5)
    assert len(set(found.flatten().tolist())) == 13  # 0.65 of 20 columns
    assert found.float().mean().item() == pytest.approx(image.float().mean().item(), abs=3)


@pytest.mark.parametrize(("severity", "side"), [(1, 30), (2, 28), (3, 27), (4, 24), (5, 20)])
def test_pixels_are_as_many_as_in_the_published_images(severity: int, side: int) -> None:
    found = corrupt(torch.arange(0, 256, 8, dtype=torch.uint8).expand(1, 1, 32, 32), "pixelate", severity)
    small = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))).resize(
        (side, side), Image.Resampling.BOX
    )
    assert np.array_equal(found[0, 0].numpy(), np.array(small.resize((32, 32), Image.Resampling.BOX)))


def test_the_disc_of_a_blur_has_the_variance_of_its_radius() -> None:
    size = 128
    point = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    point[0, 0, 60:68, 60:68] = 255
    found = corrupt(point, "defocus_blur", 5).double()[0, 0] / 255
    rows = torch.arange(size, dtype=torch.float64)[:, None]
    spread = (found * (rows - 63.5).square()).sum() / found.sum()
    radius = 0.058 * size
    assert spread.item() == pytest.approx(radius**2 / 4 + 63 / 12, rel=0.1)  # a disc's, and the square's own


def test_chunks_draw_for_themselves() -> None:
    images = grey(100, 8, 1)[:1].expand(CHUNK + 1, -1, -1, -1)
    found = corrupt(images, "gaussian_noise", 3)
    assert not torch.equal(found[0], found[CHUNK])
    assert torch.equal(found[:CHUNK], corrupt(images[:CHUNK], "gaussian_noise", 3))


def test_fog_veils_and_snow_pales() -> None:
    images = pictures(8, 3, 32, 32)
    assert corrupt(images, "fog", 5).amax((1, 2, 3)).le(images.amax((1, 2, 3))).all()
    assert corrupt(images, "snow", 5).double().mean() > 1.2 * images.double().mean()


def test_the_kinds_are_grouped_as_in_the_published_sets() -> None:
    families: dict[str, list[str]] = {}
    for name, corruption in CORRUPTIONS.items():
        families.setdefault(corruption.family, []).append(name)
    assert families == {
        "noise": ["gaussian_noise", "shot_noise", "impulse_noise"],
        "blur": ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"],
        "weather": ["snow", "frost", "fog", "brightness"],
        "digital": ["contrast", "elastic_transform", "pixelate", "jpeg_compression"],
    }
