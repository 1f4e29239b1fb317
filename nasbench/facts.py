"""What the files of a record hold: models of what a run saw, decided and found."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from nasbench.architecture import Architecture

SCHEMA = 2  # version of what follows; `nasbench migrate` brings records of earlier ones up to date

Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Part(BaseModel):
    """What a file of a record holds. Numbers are finite; what is not known here is kept."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class DataFacts(Part):
    """What a run saw of its data (`data.json`)."""

    dataset: str = ""
    class_names: list[str]
    image_size: Count
    mean: list[float] = []
    std: list[float] = []


class Exclusion(Part):
    """Why a candidate left a layer."""

    step: Count  # training batches seen by then
    by: str  # the candidate that was better
    # For the other being better, to 1; already divided by the number of comparisons of the whole network.
    odds: Annotated[float, Field(gt=0)]


class Doubt(Part):
    """The comparison that keeps a layer undecided: of the best candidate with the next best."""

    best: str
    rival: str
    # Of d, what a step's batch prefers the best by: ∂L/∂π of the rival minus the best's, in the layer's units.
    mean: float
    deviation: float  # of d, from step to step
    steps: Count  # at which both were compared
    # Such steps from the first to a decision, if d went on like this on images not seen before; `None`: no end.
    needed: Count | None


class Decision(Part):
    """Why a layer has its candidate (`decisions.json`, by label)."""

    # `evidence`, `threshold`, `undecided`, `limit`, `removal`, `budget`, `given`; else what decided, after "found by".
    by: str
    # With `budget`: what the strategy would have taken without the limits on what the network costs.
    wanted: str | None = None
    step: int | None = None  # training batches seen by then
    pi: dict[str, float] | None = None  # candidate → probability
    train_loss: float | None = None  # mean of the last steps
    # Candidates that evidence has not excluded, in the space's order; empty where none was gathered.
    survivors: list[str] = []
    excluded: dict[str, Exclusion] = {}
    doubt: Doubt | None = None  # of a layer with several survivors
    # The candidate that each half of the search, taken by itself, preferred; empty where that is not known.
    halves: list[str] = []


class Environment(Part):
    """What a result may depend on beside the configuration (`environment.json`)."""

    command: list[str] = []
    started: str | None = None
    packages: dict[str, str | None] = {}


class LimitFacts(Part):
    """What a network costs that was derived under a limit, in the unit of the limit's kind."""

    limit: float
    predicted: float  # by the costs of its candidates
    measured: float  # again, as a whole; a median where it is timed
    low: float  # first quartile
    high: float  # third quartile


class Result(Part):
    """What came out (`result.json`); an evaluator may add to it."""

    top1: Fraction
    top5: Fraction | None
    balanced_accuracy: Fraction | None = None  # mean of the recalls of the classes that have test images
    params: Count
    madds: Count
    search_seconds: Seconds
    retrain_seconds: Seconds
    peak_memory_bytes: Count
    search: dict[str, Count | float] = {}  # the strategy's own numbers
    limits: dict[str, LimitFacts] = {}  # kind of the limit → what the network costs
    architecture: Annotated[Architecture, Field(min_length=1)]
    names: list[str] = []  # what the architecture is called: named architectures of the space, or its one candidate
    label: str  # a short name for what was trained, e.g. `global`, `se at output`, `darts order 2 (ablation)`
    record: str = ""


class StageFacts(Part):
    """What a stage took."""

    seconds: Seconds
    peak_memory_bytes: Count


class Status(Part):
    """How far a run has come (`status.json`)."""

    schema_version: int = SCHEMA
    state: Literal["running", "interrupted", "failed", "finished"] = "running"
    error: str | None = None
    stages: dict[str, StageFacts] = {}
    updated: str | None = None
    sha256: dict[str, str] = {}
    """Of every file that a stage has finished; of `status.json`, of its other fields."""
