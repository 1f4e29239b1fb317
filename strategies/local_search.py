"""Hill climbing."""

from collections.abc import Generator, Iterator

from nasbench.architecture import Architecture
from nasbench.options import Seed, checked
from nasbench.strategies.proposing import MOST_DRAWS, Proposing


class LocalSearch(Proposing):
    """Local search: from a random network to its best neighbour, until none is better; then from another one.

    Neighbours differ in a single choice. No network is trained twice. Source: White et al., "Exploring the Loss
    Landscape in Neural Architecture Search", UAI 2021, algorithm 1.
    """

    decided_by = "the best that local search met"

    @checked
    def __init__(self, *, seed: Seed = 0) -> None:
        """Set the seed of the starts, and of the order in which neighbours are trained."""
        super().__init__(seed)

    def proposals(self) -> Generator[Architecture, float, None]:
        """A start, all its neighbours, all of the best one's, and so on."""
        space = self.model_space.simplify()
        candidates = {label: tuple(mutable.grid()) for label, mutable in space.items()}
        known: dict[str, float] = {}
        while True:
            draws = (self.draw() for _ in range(MOST_DRAWS))
            start = next((drawn for drawn in draws if repr(drawn) not in known), None)
            if start is None:
                return  # all that are allowed are known
            best, measure = start, (yield start)
            known[repr(start)] = measure
            here = None
            while here is not best:
                here = best
                for neighbour in self._neighbours(here, candidates):
                    if repr(neighbour) not in known:
                        known[repr(neighbour)] = yield neighbour
                    if known[repr(neighbour)] > measure:
                        best, measure = neighbour, known[repr(neighbour)]

    def _neighbours(self, here: Architecture, candidates: dict[str, tuple[object, ...]]) -> Iterator[Architecture]:
        others = [{**here, label: v} for label, values in candidates.items() for v in values if v != here[label]]
        yield from (others[i] for i in self.state.permutation(len(others)) if self.allows(others[i]))
