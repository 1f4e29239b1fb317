from nasbench.commands.found import finished, show_table
from nasbench.commands.shared import Format, Output, Runs
from nasbench.results.repeats import repeats


def command(runs: Runs = None, how: Format = "rich", output: Output = None) -> None:
    """Show whether searches repeat: how far seeds, and the halves of each search, agree."""
    show_table(repeats(finished(runs).frame), how, output)
