from nasbench.commands.found import records
from nasbench.commands.shared import Records
from nasbench.migrate import migrate
from nasbench.terminal import say, write


def command(runs: Records) -> None:
    """Bring records of earlier versions up to date, in place."""
    changed = total = 0
    for folder in runs:
        total += len(records(folder, packs=False))
        for path in migrate(folder):
            write(str(path))
            changed += 1
    say(f"{changed} of {total} record(s) brought up to date")
