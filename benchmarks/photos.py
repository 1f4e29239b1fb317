from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

from nasbench.benchmarks import interleave, summarised
from nasbench.data.folders import ImageFolder, PictureBatches
from nasbench.data.pictures import read_picture

PHOTOS, BATCH, WIDTH, HEIGHT = 320, 64, 500, 375
GOALS = {96: "≥ 4×", 224: "≥ 1.5×"}  # as many images a second as before, by side


def _fill(root: Path) -> None:
    """Windows of scikit-learn's two photos, as JPEGs of about 60 kB."""
    rng = np.random.default_rng(0)
    for label, pixels in enumerate(load_sample_images().images):
        (root / str(label)).mkdir()
        for i in range(PHOTOS // 2):
            y, x = rng.integers(pixels.shape[0] - HEIGHT), rng.integers(pixels.shape[1] - WIDTH)
            window = Image.fromarray(pixels[y : y + HEIGHT, x : x + WIDTH])
            window.save(root / str(label) / f"{i}.jpg", quality=90)


def _formerly_read(path: str) -> Image.Image:
    return ImageOps.exif_transpose(read_picture(path)).convert("RGB")  # two copies that are no longer made


def run(repetitions: int = 7) -> list[dict[str, Any]]:
    """Training images (JPEG, 500×375) a second in this process, one entry a side: from files, and from memory.

    The former way was to resize by Pillow. `speedup_files` and `speedup_kept` compare like with like, `speedup` what
    is done by default (from memory, where they fit) with reading each file every time.
    """
    with TemporaryDirectory() as folder:
        _fill(Path(folder))
        return [_measured(Path(folder), side, repetitions) for side in GOALS]


def _measured(root: Path, side: int, repetitions: int) -> dict[str, Any]:
    data = ImageFolder(data_root=root, image_size=side, batch_size=BATCH, workers=0)
    kept = data.train_dataloader().dataset
    batches = list(data.batches(len(kept), shuffle=True))
    formerly = v2.Compose([v2.RandomResizedCrop(side, (data.crop_scale, 1.0)), v2.RandomHorizontalFlip(), np.array])
    pictures = {path: _formerly_read(path) for path in kept.paths}

    def epoch(read: Any, prepare: Any, memory: dict[str, Any]) -> Callable[[], object]:
        pictures = PictureBatches(kept.paths, kept.labels, read, prepare, memory, 0)
        return lambda: [pictures[batch] for batch in batches]

    times = interleave(
        {
            "former_files": epoch(_formerly_read, formerly, {}),
            "files": epoch(kept.read, kept.prepare, {}),
            "former_kept": epoch(None, formerly, pictures),
            "kept": epoch(None, kept.prepare, kept.kept),
        },
        repetitions,
    )
    images = sum(map(len, batches))
    found = summarised({name: [1e3 * images / t for t in ms] for name, ms in times.items()}, "rate")
    pairs = {"": ("kept", "files"), "_files": ("files", "files"), "_kept": ("kept", "kept")}
    speedups = {f"speedup{k}": found[f"{now}_rate"] / found[f"former_{then}_rate"] for k, (now, then) in pairs.items()}
    return {"shape": [side, side], **found, **speedups, "goals": {"speedup": GOALS[side]}}
