"""What the other processes of a run do: the first one's work, without a record or a display."""

import json
import os
import sys
import threading
import traceback

from nasbench.config import RUN, RunConfig
from nasbench.distributed import Processes, broadcast, connect, disconnect
from nasbench.errors import NasbenchError, OptionError
from nasbench.machine import deterministic
from nasbench.pipeline import prepare, run_stages
from nasbench.quiet import quiet_libraries
from nasbench.registry import describe_exception
from nasbench.stages import StageIO


def follow(config: RunConfig) -> None:
    """Do the first process's work beside it, to the end; NasbenchError for wrong settings or data on this machine."""
    plan = broadcast(None)
    first = RunConfig.model_validate(plan["config"])
    # The first has read the weights.
    differences = [name for name in first.differing(config, *RUN) if name != "weights"]
    if differences:
        raise OptionError(f"the first process was started with other settings: {', '.join(differences)} differ(s)")
    with quiet_libraries(), deterministic(config.deterministic):
        search = prepare(config, plan["weights"]) if plan["search"] else None
        run_stages(config, StageIO(), search, plan["checkpoints"], plan["weights"])


def follow_node(config: RunConfig) -> None:
    """Take part in a run whose record is written on another machine (NODE_RANK > 0); errors as in `follow`."""
    with Processes(config, lambda reason: None):
        follow(config)


def main() -> None:
    """Run as a further process of the machine: told what to do on stdin, tells on stdout how it goes."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as report:
        os.dup2(2, 1)  # whatever else prints must not disturb the report
        code = 0
        try:
            config = RunConfig.model_validate(job["config"])
            print(json.dumps({"ready": True}), file=report, flush=True)
            connect(config, job["local_rank"])
            follow(config)
            disconnect()
        except BaseException as e:
            traceback.print_exc()
            text = str(e) if isinstance(e, NasbenchError) else describe_exception(e)
            print(json.dumps({"error": text, "mendable": isinstance(e, NasbenchError)}), file=report, flush=True)
            code = 1
    sys.stderr.flush()
    os._exit(code)  # nothing that libraries do at exit may wait for a process that is gone


def _end_with_parent() -> None:
    """End when the process that started this one does, however it does: its end of the pipe closes."""
    sys.stdin.read()
    os._exit(1)
