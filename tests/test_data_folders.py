"""Your own pictures: which folders are understood, which photos are copies, and what happens to files that are none."""

from __future__ import annotations

import json
import os
import socket
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
from nasbench.data.folders import ImageFolder, ImageNet
from nasbench.data.pictures import kept_pictures, read_picture
from nasbench.errors import DataError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from tests.photos import classes, fill, opened, photo, picture, refused
from tests.records import unsealed

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


# Copies


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
