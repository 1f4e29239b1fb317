"""Your own pictures: which folders are understood, what the pixels are, and what happens to files that are none."""

from __future__ import annotations

import json
import os
import socket
import struct
import zlib
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nasbench.data import folders
from nasbench.data.folders import ImageFolder, ImageNet, RandomCrop
from nasbench.data.pictures import BrokenPicture, kept_pictures, read_area, read_photo, read_picture
from nasbench.errors import DataError, OptionError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from tests.records import unsealed


def fill(folder: Path, count: int = 3) -> Path:
    """A class folder with `count` small pictures in it, each like no other."""
    folder.mkdir(parents=True)
    for i in range(count):
        picture(str(folder / str(i))).save(folder / f"{i}.png")
    return folder


def picture(seed: str, side: int = 12) -> Image.Image:
    values = np.random.default_rng(zlib.crc32(seed.encode())).integers(0, 256, (side - 2, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def classes(folder: Path, count: int = 3, names: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in names:
        fill(folder / name, count)


def opened(root: Path, kind: type[ImageFolder] = ImageFolder, **options: Any) -> ImageFolder:
    data = kind(data_root=root, image_size=8, batch_size=4, **options)
    data.setup()
    return data


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Layouts


@pytest.mark.parametrize("test", ["test", "testing", "val", "valid", "validation", "Test", "VAL"])
def test_given_test_sets_go_by_several_names(test: str, tmp_path: Path) -> None:
    classes(tmp_path / "Train", 10)
    classes(tmp_path / test, 2)
    data = opened(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert data.summary() == "2 classes, 20 training, 4 test photos"


@pytest.mark.parametrize("folder", ["", "train", "Training"])
def test_a_set_without_test_images_is_split(folder: str, tmp_path: Path) -> None:
    classes(tmp_path / folder, 10)
    data = opened(tmp_path)
    assert data.summary() == "2 classes, 16 training, 4 test photos (split by us, 1 in 5, stratified)"
    assert data.description()["summary"] == data.summary()
    assert np.bincount(data.test_labels).tolist() == [2, 2]
    assert not set(data._train_paths) & set(data.test_files)


def test_the_validation_images_join_nothing_where_there_are_test_images(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 4), ("test", 2)):
        classes(tmp_path / part, count)
    assert opened(tmp_path).summary() == "2 classes, 20 training, 4 test photos (tested on test/; val/ is not used)"


@pytest.mark.parametrize(
    "made",
    [
        ("train/cat", "valuation/cat"),
        ("train/cat", "cat"),
        ("test/cat", "val/cat"),
        ("test", "cat"),
        ("train/cat", "train/dog", "test/cat", "test/dog", "testing/cat", "testing/dog"),
        ("cat/young", "dog/young"),
        ("set/train/cat", "set/test/cat"),
        ("cat", "dog/young"),
        ("train", "test"),
    ],
)
def test_other_folders_of_folders_are_refused(made: tuple[str, ...], tmp_path: Path) -> None:
    for name in made:
        fill(tmp_path / name)
    told = refused(tmp_path)
    assert "train/CLASS/*" in told
    assert any(part in told for name in made for part in name.split("/"))


def test_a_class_may_have_folders_beside_its_own_pictures_and_links_in_a_circle_end(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    fill(tmp_path / "cat" / "young", 5)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    assert np.bincount(opened(tmp_path).train_labels).tolist() == [8, 4]


def test_hidden_files_are_not_looked_at_and_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    fill(tmp_path / ".cache")
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0")
    for name in ("a.gif", "b.gif", "c.txt"):
        (tmp_path / "cat" / name).write_text("x")
    assert opened(tmp_path).summary().endswith("; files of other kinds left out: .gif 2, .txt 1)")


def test_different_classes_are_named(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test", names=("cat", "cow"))
    told = refused(tmp_path)
    assert "train/dog" in told
    assert "test/cow" in told


def test_one_class_is_none(tmp_path: Path) -> None:
    classes(tmp_path, names=("cat",))
    assert "at least two classes are needed, not only cat" in refused(tmp_path)


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    classes(tmp_path, 9)
    for name in ("emu", "fox"):
        fill(tmp_path / name, 1)  # in alphabetical order the split takes every fifth picture
    assert "no training photos of class fox" in refused(tmp_path)


def test_imagenet_is_trained_and_tested_on_the_folders_of_its_archives(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2)):
        classes(tmp_path / part, count)
    (tmp_path / "test").mkdir()  # without labels
    assert opened(tmp_path, ImageNet).summary() == "2 classes, 10 training, 4 test photos"


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


# Copies


def photo(path: Path, seed: str, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, 64).save(path, **options)


def test_training_photos_that_are_test_photos_are_left_out_and_counted(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("test", 3)):
        classes(tmp_path / part, count)
    exif = Image.Exif()
    exif[0x010E] = "from my phone"
    for number, kind in enumerate(("jpg", "png", "webp")):
        photo(tmp_path / "test" / "cat" / f"old.{kind}", kind)
        photo(tmp_path / "train" / "cat" / f"copy.{kind}", kind, exif=exif if number % 2 else b"")
    photo(tmp_path / "train" / "dog" / "once more.jpg", "jpg", exif=exif)  # in another class, with other bytes
    data = opened(tmp_path)
    assert data.summary() == (
        "2 classes, 20 training, 9 test photos (training photos left out that are test photos, too: 4)"
    )
    assert data.description()["copies_left_out"] == 4
    assert not [path for path in data._train_paths if "copy" in path or "once" in path]


def test_photos_that_look_alike_are_no_copies(tmp_path: Path) -> None:
    for part in ("train", "test"):
        classes(tmp_path / part, 5)
        noisy = np.array(picture("same", 64))
        noisy[0, 0] += part == "test"  # one pixel of thousands
        Image.fromarray(noisy).save(tmp_path / part / "cat" / "a.png")
        # Chequers of the same mean: in an eighth of the size, as files are checked, both are plain grey.
        chequers = 128 + (20 if part == "test" else 40) * (np.indices((64, 64)).sum(0) % 2 * 2 - 1)
        Image.fromarray(chequers.astype(np.uint8)).save(tmp_path / part / "cat" / "a.jpg")
    assert opened(tmp_path).summary() == "2 classes, 12 training, 12 test photos"


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_where_we_split_copies_go_together(stage: Any, tmp_path: Path) -> None:
    for i in range(40):
        for name in ("cat", "dog"):
            for copy in range(1 + i % 3):
                photo(tmp_path / name / f"{i}_{copy}.jpg", f"{name}{i}")
    data = opened(tmp_path, stage=stage)
    assert "; copies of other photos, each in the same part as these: 78)" in data.summary()
    assert data.description()["copies_kept_together"] == 78
    train, second = ([data._train_paths[i] for i in part] for part in data.splits())
    parts = [{path.rpartition("_")[0] for path in part} for part in (train, second, data.test_files)]
    assert all(parts)
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert 0.1 < len(data.test_files) / 158 < 0.3


def test_the_copies_in_trashnet_are_found(real_data: Path) -> None:
    data = opened(real_data / "trashnet")
    assert data.description()["copies_kept_together"] == 3
    assert len(data.train_labels) + len(data.test_labels) == 2527


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


# Decoded pictures, and processes


def batches_of(data: ImageFolder) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [images for loader in (data.train_dataloader(), data.val_dataloader()) for images, _ in loader]


def test_kept_pictures_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        for i in range(10):
            photo(tmp_path / name / f"{i}.{'jpg' if i % 2 else 'png'}", f"{name}{i}")
    for stage in ("search", "retrain"):
        monkeypatch.setattr(folders, "KEPT_SHARE", 0.0)
        read = batches_of(opened(tmp_path, stage=stage, jitter=0.1, crop_scale=0.5))
        monkeypatch.setattr(folders, "KEPT_SHARE", 0.25)
        data = opened(tmp_path, stage=stage, jitter=0.1, crop_scale=0.5)
        memory, second = (loader.dataset.kept for loader in (data.train_dataloader(), data.val_dataloader()))
        assert {photo.pixels.shape for photo in memory.values()} == {(62, 64, 3), (31, 32, 3)}  # PNG, JPEG
        if stage == "retrain":  # these are the same every epoch, so that it is they that are kept
            assert {pixels.shape for pixels in second.values()} == {(8, 8, 3)}
        with monkeypatch.context() as nothing:
            nothing.setattr("PIL.Image.open", None)  # no file is read any more
            kept = batches_of(data)
        assert len(read) == len(kept) > 2
        assert all(torch.equal(a, b) for a, b in zip(read, kept, strict=True))


def test_pictures_are_kept_up_to_a_share_of_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "cat", 20)
    paths = [str(folder / f"{i}.png") for i in range(3)]
    size = 3 * 12 * 10 * 3
    assert kept_pictures(paths, read_picture, lambda _: 120, size).keys() == set(paths)
    assert kept_pictures(paths, read_picture, lambda _: 120, size - 1) == {}
    fill(tmp_path / "dog", 20)
    data = opened(tmp_path)
    monkeypatch.setattr(folders, "free_bytes", lambda: 0)
    assert data.train_dataloader().dataset.kept == {}


def test_processes_are_started_for_many_pictures_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes(tmp_path, 10)
    assert opened(tmp_path).train_dataloader().num_workers == 0
    monkeypatch.setattr(folders, "FEW", 5)
    monkeypatch.setattr(folders, "SHARED_MEMORY", tmp_path)
    for cpus, room, expected in (
        (1, 10**9, 0),
        (4, 10**9, 3),
        (64, 10**9, 8),
        (4, 2 * 4 * 4 * 8 * 8 * 3, 2),
        (4, 0, 0),
    ):
        monkeypatch.setattr("nasbench.machine.cpus", lambda cpus=cpus: cpus)
        monkeypatch.setattr("shutil.disk_usage", lambda path, room=room: SimpleNamespace(free=room))
        assert opened(tmp_path).train_dataloader().num_workers == expected
    assert opened(tmp_path, workers=0).train_dataloader().num_workers == 0
    assert "workers" not in resolve_config({"dataset": "imagefolder"}).data_options()


# Files that are no pictures


def damage(folder: Path) -> dict[str, str]:
    """Broken files of all kinds in a class folder; returns what is said of each."""
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for name in ("cut.jpg", "cut.png"):
        whole.save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("hello")
    (folder / "script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(folder / "pipe.png")
    (folder / "lost.png").symlink_to(folder / "nothing")
    Image.new("1", (30000, 30000)).save(folder / "bomb.png")
    Image.new("1", (10000, 10000)).save(folder / "large.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tif")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path may not be long
        server.bind("socket.jpg")
        os.chdir(here)
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "empty.png": "empty",
        "text.jpg": "not a picture",
        "script.jpg": "not a picture",
        "pipe.png": "not a regular file",
        "socket.jpg": "not a regular file",
        "lost.png": "No such file",
        "bomb.png": "pixels",
        "large.png": "10000×10000 pixels",
        "float.tif": "32 bits a channel",
    }


def test_every_broken_file_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    expected = damage(tmp_path / "cat")
    told = refused(tmp_path)
    assert told.startswith(f"imagefolder: {len(expected)} of {10 + len(expected)} files in {tmp_path} cannot be read: ")
    assert told.endswith("and 1 more; repair or remove them, or leave them out with --skip-broken")
    for name in sorted(expected)[:10]:
        assert f"cat/{name} (" in told
        assert expected[name] in told.partition(f"cat/{name} (")[2].partition(")")[0], name


def test_broken_files_are_left_out_and_counted_where_that_is_wanted(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    broken = damage(tmp_path / "cat")
    data = opened(tmp_path, skip_broken=True)
    assert data.summary() == (
        "2 classes, 8 training, 2 test photos (11 broken files left out; split by us, 1 in 5, stratified)"
    )
    assert data.description()["broken_files_left_out"] == len(broken) == 11
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 2


def test_a_class_of_broken_files_is_no_class(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "a.png").touch()
    assert "no training photos of class emu" in refused(tmp_path, skip_broken=True)


def test_names_of_files_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    (tmp_path / "cat" / "a\x1b[2J\n.png").touch()
    fill(tmp_path / "b\x1b[2J")
    told = refused(tmp_path)
    assert "a\\x1b[2J\\n.png (empty)" in told
    assert "\x1b" not in told
    assert "\x1b" not in "".join(opened(tmp_path, skip_broken=True).class_names)


@pytest.mark.parametrize("workers", [0, 1])
def test_of_very_many_files_each_is_checked_when_it_is_used(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MOST_CHECKED", 9)
    classes(tmp_path, 5)
    (tmp_path / "cat" / "0.png").unlink()
    os.mkfifo(tmp_path / "cat" / "0.png")
    data = opened(tmp_path, workers=workers)
    assert "files are checked when they are first used" in data.summary()
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    with pytest.raises(DataError) as error:
        list(chain(*loaders))
    assert str(error.value) == (
        f"{tmp_path}/cat/0.png cannot be read: not a regular file; repair or remove it, or leave such files out with "
        "--skip-broken"
    )
    assert "1 broken file" in opened(tmp_path, skip_broken=True).summary()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    classes(tmp_path, 5)
    fill(tmp_path / "cat" / "old").chmod(0)
    assert "cat/old cannot be read: Permission denied" in refused(tmp_path)


def test_a_run_keeps_how_many_broken_files_were_left_out(tmp_path: Path) -> None:
    classes(tmp_path / "set", 20)
    (tmp_path / "set" / "cat" / "broken.png").touch()
    given: dict[str, Any] = {
        **{"dataset": "imagefolder", "data_root": str(tmp_path / "set"), "image_size": 8, "batch_size": 8},
        **{"strategy": "fixed", "strategy_options": {"choice": "none"}, "space_options": {"width": 0.05}},
        **{"preset": "quick", "epochs": 1, "retrain_epochs": 1, "device": "cpu", "train_images": 32},
    }
    with pytest.raises(DataError, match=r"1 of 41 files in .* cannot be read: cat/broken.png \(empty\)"):
        run(resolve_config(given), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    record = run(resolve_config({**given, "skip_broken": True}), tmp_path / "run")
    settings = yaml.safe_load((record.path / "config.yaml").read_text())
    del settings["dataset_options"]["crop_scale"], settings["dataset_options"]["jitter"]  # as in earlier records
    (record.path / "config.yaml").write_text(yaml.safe_dump(settings))
    unsealed(record.path)
    assert record.config().dataset_options["crop_scale"] == 0.08
    told = json.loads((record.path / "data.json").read_text())
    assert told["broken_files_left_out"] == 1
    assert "1 broken file left out" in told["summary"]
