from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import finished
from nasbench.commands.shared import Runs, Trust
from nasbench.errors import RecordError
from nasbench.results.report import report
from nasbench.terminal import write


def command(
    runs: Runs = None,
    output: Annotated[Path, typer.Option(help="Folder that receives index.html.")] = Path("report"),
    trust: Trust = False,
) -> None:
    """Write one self-contained HTML page with the tables, the figures and the commands of the runs."""
    found = finished(runs)
    try:
        write(str(report(found.frame, output, found.problems, trust=trust)))
    except OSError as e:
        raise RecordError(f"no report can be written in {output}: {e.strerror}") from e
