from nasbench.commands.shared import Json, OneRecord
from nasbench.record import Record
from nasbench.show import summary
from nasbench.terminal import plain_console, print_json


def command(record: OneRecord, as_json: Json = False) -> None:
    """Show what a run chose, and how good the network is."""
    opened = Record(record)
    if as_json:
        print_json({**opened.result().model_dump(mode="json"), "record": str(record)})
    else:
        plain_console().print(summary(opened))
