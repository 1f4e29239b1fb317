"""What faster training crops change: heads learnt on them, tested on photos that are decoded in full.

`python experiments/decoding.py FOLDER WEIGHTS` (photos in one folder a class, ImageNet's MobileNetV2) learns heads for
the pretrained features by least squares on crops: as they were made before (decoded in full, resized by Pillow), as
they are made now, and, to compare, as before with other random draws. Five folds make every photo a test photo once.
It prints the accuracies and how many predictions differ from the first row's, also for test photos that are decoded
scaled down, which nasbench does not do. Photos are taken as they are, at 96 px, and enlarged to 1280×1280 with grain,
so that JPEGs are decoded in a quarter of their size. On a busy core 20 minutes.
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

SIZE, SCALE, DRAWS, LARGE, GRAIN, FOLDS = 96, 0.5, 3, 1280, 12.0, 5


def enlarged(path: str, folder: str, seed: int) -> str:
    """A JPEG of LARGE×LARGE with what the photo shows and a camera's noise."""
    picture = np.asarray(read_picture(path).resize((LARGE, LARGE), Image.Resampling.LANCZOS), dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0, GRAIN, picture.shape)
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

    def seeded(make: Callable[[], Any], seed: int) -> Any:
        torch.manual_seed(seed)
        return make()

    def features(pictures: list[Any]) -> Tensor:
        with torch.no_grad():
            maps = network.features(normalised(torch.from_numpy(np.stack(pictures)), data.mean, data.std))
        return maps.mean((2, 3))

    paths = [*data._train_paths, *data.test_files]
    labels = torch.from_numpy(np.concatenate([data.train_labels, data.test_labels]))
    fold = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)) % FOLDS
    for large in (False, True):
        learnt: dict[str, list[Tensor]] = {"former": [], "now": [], "former, other draws": []}
        seen: dict[str, list[Tensor]] = {"in full": [], "scaled": []}
        differences = []
        with TemporaryDirectory() as folder:
            for i, path in enumerate(paths):
                path = enlarged(path, folder, i) if large else path
                picture, photo = read_picture(path), read_photo(path, now.least)
                seeds = range(i * DRAWS, (i + 1) * DRAWS)
                before = [seeded(lambda: former(picture), seed) for seed in seeds]  # noqa: B023
                after = [seeded(lambda: now(photo), seed) for seed in seeds]  # noqa: B023
                others = [seeded(lambda: former(picture), seed + 10**6) for seed in seeds]  # noqa: B023
                differences += [np.abs(a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)]
                small = Image.fromarray(read_photo(path, least).pixels)
                maps = features([*before, *after, *others, cropped(picture, SIZE), cropped(small, SIZE)])
                for found, part in zip(
                    (*learnt.values(), *seen.values()), maps.split([DRAWS] * 3 + [1, 1]), strict=True
                ):
                    found.append(part)
        right = {}
        for how, parts in learnt.items():
            crops = torch.stack(parts)
            for test, maps in seen.items():
                guesses = right[how, test] = torch.empty_like(labels)
                for k in range(FOLDS):
                    x, y = crops[fold != k].flatten(0, 1), labels[fold != k].repeat_interleave(DRAWS)
                    penalty = 10 * DRAWS * torch.eye(x.shape[1])
                    head = torch.linalg.solve(x.T @ x + penalty, x.T @ nn.functional.one_hot(y).float())
                    guesses[fold == k] = (torch.cat(maps)[fold == k] @ head).argmax(1)
        print(
            f"{'1280×1280 with grain' if large else 'as they are'}, pixels differ by {np.mean(differences):.4f} of 255"
        )
        first = right["former", "in full"]
        for (how, test), guesses in right.items():
            better, worse = (
                int(((a == labels) & (b != labels)).sum()) for a, b in ((guesses, first), (first, guesses))
            )
            of = f"{(guesses == labels).float().mean():.4f} of {len(labels)}"
            changed = int((guesses != first).sum())
            print(f"  {how}, tested {test}: {of}, {changed} changed, {better} right, {worse} wrong", flush=True)


if __name__ == "__main__":
    main()
