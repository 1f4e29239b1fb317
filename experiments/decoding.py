"""What faster training crops change: a head learnt on them, tested on photos that are decoded in full.

`python experiments/decoding.py FOLDER WEIGHTS` (photos in one folder a class, ImageNet's MobileNetV2) learns a head for
the pretrained features by least squares, without chance: on crops as they were before (decoded in full, resized by
Pillow), and on the same crops as they are made now. It prints both accuracies and how many of the test photos change
sides, and the same for test photos decoded scaled down, which nasbench does not do. Photos are taken as they are, at 96
px, and enlarged to 1280×1280 with grain, so that JPEGs are decoded in a quarter of their size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.transforms import v2

from nasbench.data.folders import ImageFolder, RandomCrop
from nasbench.data.pictures import read_photo, read_picture
from nasbench.data.preparation import cropped, normalised

SIZE, SCALE, DRAWS, LARGE, GRAIN = 96, 0.5, 3, 1280, 12.0


def enlarged(path: str, folder: str) -> str:
    """A JPEG of LARGE×LARGE with what the photo shows and a camera's noise."""
    picture = np.asarray(read_picture(path).resize((LARGE, LARGE), Image.Resampling.LANCZOS), dtype=np.float32)
    noise = np.random.default_rng(len(path)).normal(0, GRAIN, picture.shape)
    found = f"{folder}/photo.jpg"
    Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)).save(found, quality=90)
    return found


def main() -> None:
    """Print a line for each of both kinds of photos."""
    data = ImageFolder(data_root=Path(sys.argv[1]), image_size=SIZE, workers=0)
    data.setup()
    network: Any = mobilenet_v2()
    network.load_state_dict(load_file(sys.argv[2]))
    network.eval()
    former = v2.Compose([v2.RandomResizedCrop(SIZE, (SCALE, 1.0)), v2.RandomHorizontalFlip(), np.array])
    now = RandomCrop(SIZE, SCALE, 0.0)
    least = 2 * round(SIZE * 256 / 224)

    def scaled(path: str, least: int) -> Image.Image:
        return Image.fromarray(read_photo(path, least).pixels)

    def seeded(make: Callable[[], Any], seed: int) -> Any:
        torch.manual_seed(seed)
        return make()

    def features(pictures: list[Any]) -> Tensor:
        with torch.no_grad():
            maps = network.features(normalised(torch.from_numpy(np.stack(pictures)), data.mean, data.std))
        return maps.mean((2, 3))

    for large in (False, True):
        learnt: dict[str, list[Tensor]] = {"former": [], "now": []}
        seen: dict[str, list[Tensor]] = {"in full": [], "scaled": []}
        differences = []
        with TemporaryDirectory() as folder:
            for i, path in enumerate(data._train_paths):
                path = enlarged(path, folder) if large else path
                picture, photo = read_picture(path), read_photo(path, now.least)
                seeds = range(i * DRAWS, (i + 1) * DRAWS)
                before = [seeded(lambda: former(picture), seed) for seed in seeds]  # noqa: B023
                after = [seeded(lambda: now(photo), seed) for seed in seeds]  # noqa: B023
                differences += [np.abs(a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)]
                learnt["former"].append(features(before))
                learnt["now"].append(features(after))
            for path in data.test_files:
                path = enlarged(path, folder) if large else path
                seen["in full"].append(features([cropped(read_picture(path), SIZE)]))
                seen["scaled"].append(features([cropped(scaled(path, least), SIZE)]))
        wanted = torch.from_numpy(data.train_labels).repeat_interleave(DRAWS)
        labels, right = torch.from_numpy(data.test_labels), {}
        for how, parts in learnt.items():
            x = torch.cat(parts)
            penalty = 10 * DRAWS * torch.eye(x.shape[1])
            head = torch.linalg.solve(x.T @ x + penalty, x.T @ nn.functional.one_hot(wanted).float())
            for test, maps in seen.items():
                right[how, test] = (torch.cat(maps) @ head).argmax(1)
        print(
            f"{'1280×1280 with grain' if large else 'as they are'}, pixels differ by {np.mean(differences):.4f} of 255"
        )
        first = right["former", "in full"]
        for (how, test), guesses in right.items():
            better, worse = (
                int(((a == labels) & (b != labels)).sum()) for a, b in ((guesses, first), (first, guesses))
            )
            accuracy, changed = (guesses == labels).float().mean(), int((guesses != first).sum())
            of = f"{accuracy:.4f} of {len(labels)}"
            print(f"  {how}, tested {test}: {of}, {changed} changed, {better} right, {worse} wrong")


if __name__ == "__main__":
    main()
