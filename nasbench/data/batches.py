from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler, RandomSampler

from nasbench.errors import DataError


class SharedBatches(DistributedSampler[Any]):
    """The part of every batch that falls to one of several processes: a `DataLoader`'s sampler of lists of indices.

    Together they are the batches that a single process would see, and no image is seen twice: shuffled images come in
    full batches in an order that is the same in all processes, ordered ones each exactly once. All processes have
    equally many batches. (Lightning leaves a `DistributedSampler` as it is.)
    """

    def __init__(self, images: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1):
        everything = range(images)
        super().__init__(everything, world, rank, shuffle, seed)  # type: ignore[arg-type]
        if images < world:
            raise DataError(f"{images} image(s) cannot be shared out among {world} processes")
        self._part = max(1, min(batch_size, images) // world)
        self.generator = torch.Generator().manual_seed(seed)
        self._order = RandomSampler(everything, generator=self.generator) if shuffle else everything

    def __iter__(self) -> Iterator[list[int]]:
        """This process's part of one batch after the other."""
        if self.shuffle:
            order, whole = iter(self._order), self._part * self.num_replicas
            while len(batch := list(islice(order, whole))) == whole:
                yield batch[self.rank * self._part :][: self._part]
        else:
            mine = np.array_split(np.array(self._order), self.num_replicas)[self.rank]
            yield from (part.tolist() for part in np.array_split(mine, len(self)))

    def __len__(self) -> int:
        """Number of batches; the same in every process."""
        images = len(self._order)
        if self.shuffle:  # a last training batch of one image would leave batch normalisation without a variance
            return images // (self._part * self.num_replicas)
        return min(-(-images // (self._part * self.num_replicas)), images // self.num_replicas)
