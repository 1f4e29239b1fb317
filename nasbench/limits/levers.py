"""What takes the largest value with which a network still keeps the limits: the width, or the side of the images."""

from collections.abc import Callable, Mapping
from typing import Any

from nasbench import registry
from nasbench.config import RunConfig
from nasbench.errors import NasbenchError, OptionError
from nasbench.quiet import quiet_libraries

AUTO = "auto"
WIDTHS = (1.4, 1.0, 0.75, 0.5, 0.35, 0.25)  # of MobileNetV2 as published, and 0.25
STEP, LARGEST = 32, 224  # image sizes are multiples, up to this or to the data set's own


def taken(
    settings: Mapping[str, Any], complete: Callable[[dict[str, Any]], RunConfig], say: Callable[[str], object]
) -> RunConfig:
    """The configuration of settings in which the width or the image size may be `auto`; `say` is told what was taken.

    Raises LimitError: the cheapest network keeps the limits with no value. Raises OptionError: both are `auto`, there
    is no limit, or the space takes no such value.
    """
    options = dict(settings.get("space_options") or {})
    if AUTO not in (options.get("width"), settings.get("image_size")):
        return complete(dict(settings))
    if options.get("width") == settings.get("image_size"):
        raise OptionError("width=auto and image_size=auto: give the value of one of them")
    if not settings.get("limits"):
        raise OptionError("auto takes the largest value below a limit: give one with --limit, such as madds=100M")
    from nasbench.limits.budget import Unreachable, budget_of

    name = "width" if options.get("width") == AUTO else "image_size"

    def of(value: Any) -> RunConfig:
        lever = {"space_options": {**options, "width": value}} if name == "width" else {"image_size": value}
        return complete({**settings, **lever})

    with quiet_libraries():
        first = of(WIDTHS[-1] if name == "width" else None)
        data = registry.build_dataset(first.dataset, first.data_options())
        data.setup()
        size = data.image_size
        values = WIDTHS if name == "width" else range(max(LARGEST, size // STEP * STEP), 0, -STEP)
        refused: NasbenchError | None = None
        for value in values:
            config = of(value)
            try:
                budget = budget_of(config, data.num_classes, config.image_size or size)
            except (Unreachable, OptionError) as e:  # the latter from spaces that are built at certain widths only
                refused = e
                continue
            costs = ", ".join(f"{c.limit.name} {c.limit.text(c.whole.value)} of {c.limit}" for c in budget.costs)
            say(f"{name}={value} is the largest that keeps the limits: {costs}")
            return config
    assert refused is not None
    raise refused
