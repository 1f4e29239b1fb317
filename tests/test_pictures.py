"""Pictures of every kind as pixels: 16 bits, orientation, transparency, crops, several frames."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nasbench.data.folders import ImageFolder, RandomCrop
from nasbench.data.pictures import BrokenPicture, read_area, read_photo, read_picture
from nasbench.errors import OptionError
from tests.photos import opened, picture

# Pixels


def png(values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a channel: `values` (H, W, C), `colour` its type of pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def pixels(folder: Path) -> list[list[int]]:
    """What a folder's only file is read as, row by row."""
    (path,) = (str(p) for p in folder.iterdir())
    return np.array(read_picture(path)).tolist()


SHADES = np.array([[0, 255, 256], [32768, 65279, 65535]])


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    expected = [[[v >> 8] * 3 for v in row] for row in SHADES.tolist()]
    alpha = np.full_like(SHADES, 65535)
    for number, (colour, values) in enumerate(
        (
            (0, SHADES[..., None]),
            (2, np.stack([SHADES] * 3, -1)),
            (4, np.stack([SHADES, alpha], -1)),
            (6, np.stack([SHADES] * 3 + [alpha], -1)),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.png").write_bytes(png(values, colour))
        assert pixels(folder) == expected
    for name, content in (
        ("pgm", b"P5 3 2 65535\n" + SHADES.astype(">u2").tobytes()),
        ("tif", None),
    ):
        (tmp_path / name).mkdir()
        if content is None:
            Image.fromarray(SHADES.astype(np.uint16)).save(tmp_path / name / "a.tif")
        else:
            (tmp_path / name / f"a.{name}").write_bytes(content)
        assert pixels(tmp_path / name) == expected


def test_a_grey_level_of_sixteen_bits_can_be_transparent(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.array([[[256], [257]]]), 0, (b"tRNS", struct.pack(">H", 257))))
    assert pixels(tmp_path) == [[[1] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(orientation: int, mode: str, tmp_path: Path) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    content = np.ascontiguousarray(stored)
    image = Image.fromarray(content.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(content)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "a.png", exif=exif)
    assert pixels(tmp_path) == [[[v] * 3 for v in row] for row in upright.tolist()]


def test_every_mode_becomes_rgb_on_white(tmp_path: Path) -> None:
    grey, red = (100, 100, 100), (200, 0, 0)
    palette = Image.new("P", (1, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    made: dict[str, tuple[Image.Image, tuple[int, ...], dict[str, Any]]] = {
        "grey.png": (Image.new("L", (1, 1), 100), grey, {}),
        "bit.png": (Image.new("1", (1, 1), 1), (255, 255, 255), {}),
        "la.png": (Image.new("LA", (1, 1), (100, 255)), grey, {}),
        "clear.png": (Image.new("LA", (1, 1), (100, 0)), (255, 255, 255), {}),
        "rgba.png": (Image.new("RGBA", (1, 1), (0, 0, 0, 51)), (204, 204, 204), {}),
        "rgba.webp": (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), (255, 255, 255), {"lossless": True}),
        "palette.png": (palette, red, {}),
        "hole.png": (palette, (255, 255, 255), {"transparency": 0}),
        "key.png": (Image.new("RGB", (1, 1), red), (255, 255, 255), {"transparency": red}),
        "cmyk.tif": (Image.new("CMYK", (1, 1), (0, 255, 255, 55)), red, {}),
        "cmyk.jpg": (Image.new("CMYK", (8, 8), (0, 0, 0, 155)), grey, {"quality": 100}),
    }
    for name, (image, expected, options) in made.items():
        folder = tmp_path / name
        folder.mkdir()
        image.save(folder / name, **options)
        assert pixels(folder)[0][0] == list(expected), name


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (3, 4), (301, 7)])
def test_pictures_of_odd_sizes_are_read(size: tuple[int, int], tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", size, (9, i, 7 if name == "cat" else 77)).save(tmp_path / name / f"{i}.png")
    data = opened(tmp_path)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (len(labels), 8, 8, 3)
        assert len(images.reshape(-1, 3).unique(dim=0)) == len(labels)
        assert images.select(3, 2).eq(torch.where(labels == 0, 7, 77)[:, None, None]).all()


def test_batches_are_what_torchvision_gives(tmp_path: Path) -> None:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder as Folder

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(12):
            picture = Image.fromarray(rng.integers(0, 255, (40 + i, 50 - i, 3), dtype=np.uint8))
            picture.save(tmp_path / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    crop = [transforms.Resize(round(8 * 256 / 224)), transforms.CenterCrop(8), np.array]
    theirs = {path: np.array(image) for (path, _), (image, _) in zip(
        Folder(str(tmp_path)).samples, Folder(str(tmp_path), transforms.Compose(crop)), strict=True
    )}  # fmt: skip
    data = opened(tmp_path)
    images = torch.cat([images for images, _ in data.test_dataloader()])
    assert np.array_equal(images.numpy(), np.stack([theirs[path] for path in data.test_files]))


# Augmentation


def test_crops_keep_as_much_as_is_asked_for(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            shown = ramp.copy()
            shown[0, :, i % 3] = i + 50 * (name == "dog")  # no two alike
            Image.fromarray(shown).save(tmp_path / name / f"{i}.png")

    def extents(**options: Any) -> list[float]:
        torch.manual_seed(0)
        loader = opened(tmp_path, **options).train_dataloader()
        middle = [images[:, 4, :, 0].float() for images, _ in loader]
        return [float(row.max() - row.min()) for rows in middle for row in rows]

    assert min(extents()) < 120
    # Of half the area the narrowest crop, 3 to 4, has 0.61 of the width; its outer pixels are 7/8 of that apart.
    assert min(extents(crop_scale=0.5)) > 256 * 0.61 * 7 / 8 - 4
    still = extents(crop_scale=1.0)
    assert len(set(still)) == 1
    assert len(set(extents(crop_scale=1.0, jitter=0.2))) > 10
    held_out = opened(tmp_path, stage="retrain", crop_scale=0.5, jitter=0.2)
    (a, _), (b, _) = (next(iter(held_out.val_dataloader())) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{"crop_scale": 0.0}, {"crop_scale": 1.5}, {"jitter": -0.1}, {"jitter": 1.0}])
def test_augmentation_has_bounds(options: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        ImageFolder(data_root=tmp_path, **options)


# Random crops


def formerly(size: int, scale: float, jitter: float = 0.0) -> Any:
    """Torchvision's own, on Pillow's pictures."""
    from torchvision.transforms import v2

    colours = [v2.ColorJitter(jitter, jitter, jitter)] if jitter else []
    return v2.Compose([v2.RandomResizedCrop(size, (scale, 1.0)), v2.RandomHorizontalFlip(), *colours, np.array])


def compared(path: str, size: int, scale: float, jitter: float = 0.0, draws: int = 20) -> np.ndarray:
    """By how much each value of some crops differs from torchvision's at the same seeds."""
    ours, theirs, differences = RandomCrop(size, scale, jitter), formerly(size, scale, jitter), []
    seen = read_photo(path, ours.least)
    for seed in range(draws):
        torch.manual_seed(seed)
        expected = theirs(read_picture(path))
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        crop = ours(seen)
        assert crop.shape == (size, size, 3)
        assert crop.dtype == np.uint8
        assert torch.equal(torch.get_rng_state(), state)  # as much was drawn
        differences.append(np.abs(crop.astype(int) - expected))
    return np.stack(differences)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("size", [8, 20, 50])
def test_crops_are_those_of_torchvision_but_for_the_last_bit(size: int, jitter: float, tmp_path: Path) -> None:
    picture("crops", 40).save(tmp_path / "a.png")
    for scale in (0.08, 1.0):
        differences = compared(str(tmp_path / "a.png"), size, scale, jitter)
        assert (differences > 0).mean() < 0.04
        assert differences.max() <= (2 if not jitter else 12)  # of one bit jitter can make several


def coloured(width: int, height: int) -> Image.Image:
    """A smooth picture in which no place looks like another, nor like itself turned."""
    y, x = np.mgrid[:height, :width]
    ripples = 20 * np.sin(x / 9) * np.sin(y / 7)
    return Image.fromarray(np.stack([200 * x / width + 20, 200 * y / height + 20, 120 + ripples], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_large_jpegs_are_scaled_down_while_they_are_decoded_and_cropped_at_the_same_places(
    mode: str, orientation: int, tmp_path: Path
) -> None:
    exif, path = Image.Exif(), str(tmp_path / "a.jpg")
    exif[0x0112] = orientation
    coloured(801, 603).convert(mode).save(path, exif=exif, quality=95)
    seen = read_photo(path, RandomCrop(24, 0.5, 0.0).least)  # 79 pixels
    height, width = (801, 603) if orientation > 5 else (603, 801)
    assert seen.size == (height, width)
    assert seen.pixels.shape == (-(-height // 4), -(-width // 4), 3)
    assert read_area(path, 79) == seen.pixels[..., 0].size
    differences = compared(path, 24, 0.5)
    assert differences.mean() < 1
    assert differences.max() <= 8
    assert np.abs(np.diff(np.array(read_picture(path)).astype(int), axis=1)).mean() > 0.1  # not plain


def test_only_large_jpegs_are_scaled_down(tmp_path: Path) -> None:
    crop = RandomCrop(24, 0.5, 0.0)
    for name, side in (("a.png", 500), ("a.jpg", 2 * crop.least - 1)):
        coloured(side, side).save(tmp_path / name)
        seen = read_photo(str(tmp_path / name), crop.least)
        assert seen.pixels.shape == (side, side, 3)
        assert seen.size == (side, side)
        assert np.array_equal(seen.pixels, np.array(read_picture(str(tmp_path / name))))
    assert (compared(str(tmp_path / "a.jpg"), 24, 0.5) > 0).mean() < 0.04
    for scale in (0.08, 0.5, 1.0):  # the smallest crop has twice the pixels a side
        side = RandomCrop(24, scale, 0.0).least
        area = scale * side**2
        assert 47 < (area * 3 / 4) ** 0.5 < 50


def test_large_jpegs_that_end_early_are_refused(tmp_path: Path) -> None:
    coloured(800, 600).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenPicture, match=r"a\.jpg cannot be read: .*truncated"):
        read_photo(str(tmp_path / "a.jpg"), 79)


def test_held_out_and_test_photos_are_decoded_in_full_and_resized_by_pillow(tmp_path: Path) -> None:
    from nasbench.data.preparation import cropped

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(15):
            coloured(300 + i, 200 + i).save(tmp_path / name / f"{i}.jpg")
    data = opened(tmp_path, stage="retrain", crop_scale=1.0)
    assert next(iter(data.train_dataloader().dataset.kept.values())).pixels.shape[0] < 30
    held_out = [data._train_paths[i] for i in data.splits()[1]]
    for paths, loader in ((held_out, data.val_dataloader()), (data.test_files, data.test_dataloader())):
        images = torch.cat([images for images, _ in loader]).numpy()
        assert np.array_equal(images, np.stack([cropped(read_picture(path), 8) for path in paths]))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.gif", "a.bmp", "a.ppm", "a.jpg"])
def test_of_several_frames_the_first_is_read(name: str, tmp_path: Path) -> None:
    frames, path = [Image.new("RGB", (16, 16), (200, shade, 0)) for shade in (0, 120, 240)], tmp_path / name
    several = name in ("a.png", "a.tif", "a.webp", "a.gif")
    frames[0].save(path, **({"save_all": True, "append_images": frames[1:]} if several else {}))
    if several:
        with Image.open(path) as image:
            assert image.n_frames == 3
    seen = read_picture(str(path))
    path.unlink()
    assert seen.mode == "RGB"
    assert np.abs(np.array(seen.resize((4, 4))).astype(int) - [200, 0, 0]).max() <= 3
