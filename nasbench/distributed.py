"""One run in several processes: who starts whom, and what becomes of all when one fails.

The process that a user starts on a machine starts the others there, which do the same work (`nasbench.follower`); only
the very first writes the record. On several machines the user starts the same command on each (docs/scaling.md).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

from nasbench.config import RunConfig
from nasbench.errors import NasbenchError, OptionError
from nasbench.machine import environment

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0  # that a process has to notice that another one is gone, before it is ended
CONSEQUENCE_SECONDS = 5.0  # in which the process whose failure broke another one's connection is found dead
INTERRUPT_SECONDS = 5.0  # in which Ctrl-C is noticed, unless this process waits for another one that hangs
DEFAULT_PORT = 29500  # torchrun's


def world_size(config: RunConfig) -> int:
    """How many processes a run has."""
    return config.devices * config.nodes


def node_rank(config: RunConfig) -> int:
    """Which of a run's machines this is, from 0; OptionError: NODE_RANK or MASTER_ADDR is wrong, or it is torchrun."""
    if world_size(config) == 1:
        return 0
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise OptionError("nasbench starts its processes itself: run it once on each machine, without torchrun")
    if config.nodes == 1:
        return 0
    value = os.environ.get("NODE_RANK", "")
    if not value.isdigit() or int(value) >= config.nodes:
        raise OptionError(f"set NODE_RANK to 0 … {config.nodes - 1} on the {config.nodes} machines, not {value!r}")
    if not os.environ.get("MASTER_ADDR"):
        raise OptionError("set MASTER_ADDR to the address of the machine whose NODE_RANK is 0")
    if not os.environ.get("MASTER_PORT", str(DEFAULT_PORT)).isdigit():
        raise OptionError(f"MASTER_PORT must be a port number, not {os.environ['MASTER_PORT']!r}")
    return int(value)


def broadcast(value: Any) -> Any:
    """What the first process of a run holds here, pickled; all processes must call it. Alone, it gets its own back."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """What each process of a run holds here, by rank; every process must call it."""
    if not dist.is_initialized():
        return [value]
    box = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def rank() -> int:
    """Which of a run's processes this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the first process of a run, which writes its record."""
    return rank() == 0


def mean_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor, of one shape everywhere, over all processes: what DDP does with its gradients."""
    if not dist.is_initialized() or not tensors:
        return list(tensors)
    flat = torch.cat([t.flatten() for t in tensors])  # one operation for all of them
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([t.numel() for t in tensors])
    return [part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Put the first process's values into the tensors of all processes."""
    if not dist.is_initialized() or not tensors:
        return
    with torch.no_grad():
        flat = torch.cat([t.flatten() for t in tensors])
        dist.broadcast(flat, 0)
        for tensor, value in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(value.view_as(tensor))


def connect(config: RunConfig, local_rank: int) -> None:
    """Join the other processes of a run; returns when all are there."""
    backend, device = "gloo", None
    if config.device != "cpu" and torch.cuda.is_available():
        backend, device = "nccl", torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    rank = node_rank(config) * config.devices + local_rank
    # Lightning takes over a group that exists.
    dist.init_process_group(backend, rank=rank, world_size=world_size(config), device_id=device)


def disconnect() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Processes:
    """The processes of a run on this machine, seen from the first one. A run of a single process is left alone.

    Inside the `with`, all processes are connected. If another one fails, this one's error tells its reason; if this
    one ends, however it does, the others end too.
    """

    def __init__(self, config: RunConfig, give_up: Callable[[str], None]) -> None:
        """`give_up` is told the reason, in another thread, before this process is ended because another has failed."""
        self._config, self._give_up = config, give_up
        self._node = node_rank(config)
        self._children: list[_Child] = []
        self._failures: list[_Child] = []
        self._alarm: threading.Timer | None = None
        self._changes = contextlib.ExitStack()  # to this process, which go with the others

    def __enter__(self) -> Processes:
        """Start the others and connect."""
        if world_size(self._config) == 1:
            return self
        try:
            self._set_environment()
            self._listen()
            for local_rank in range(1, self._config.devices):
                self._children.append(_Child(self._config, self._node, local_rank, self._on_failure))
            for child in self._children:
                child.ready.wait()
            if self._failures:
                raise self._failures[0].error()
            connect(self._config, 0)
        except BaseException:
            self._end(failed=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the others; say which of them was to blame."""
        if world_size(self._config) == 1:
            return
        if isinstance(error, RuntimeError):  # this process may only have lost its connection to the one that failed
            deadline = time.monotonic() + CONSEQUENCE_SECONDS
            while not self._failures and time.monotonic() < deadline:
                time.sleep(0.05)
        self._end(failed=error is not None)
        if self._failures and not isinstance(error, (NasbenchError, KeyboardInterrupt, SystemExit)):
            log.error("process failed:\n%s", self._failures[0].output)
            raise self._failures[0].error() from error

    def _set_environment(self) -> None:
        from lightning_fabric.plugins.environments.lightning import find_free_network_port

        config, several = self._config, self._config.nodes > 1
        values = {
            "LOCAL_RANK": "0",  # so that Lightning starts no processes itself
            "NODE_RANK": str(self._node),
            "MASTER_ADDR": os.environ["MASTER_ADDR"] if several else "127.0.0.1",
            "MASTER_PORT": str(os.environ.get("MASTER_PORT", DEFAULT_PORT) if several else find_free_network_port()),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // config.devices))),
        }
        if not several and sys.platform == "linux":
            values["GLOO_SOCKET_IFNAME"] = "lo"  # what stays on the machine needs no network, and must not show there
        self._changes.callback(torch.set_num_threads, torch.get_num_threads())
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(int(values["OMP_NUM_THREADS"]))
        self._changes.enter_context(environment(**values))

    def _listen(self) -> None:
        """Let Ctrl-C end a collective operation, in which Python does not get to see it."""
        if threading.current_thread() is not threading.main_thread():
            return
        told, tell = socket.socketpair()
        tell.setblocking(False)
        self._changes.callback(tell.close)  # which ends the thread
        self._changes.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False))
        threading.Thread(target=self._await_signals, args=(told,), daemon=True).start()

    def _await_signals(self, told: socket.socket) -> None:
        with told:
            while received := told.recv(1):
                if received[0] in (signal.SIGINT, signal.SIGTERM):
                    time.sleep(INTERRUPT_SECONDS)
                    for child in self._children:
                        child.kill()  # which breaks the connection that this process waits for

    def _on_failure(self, child: _Child) -> None:
        self._failures.append(child)
        if self._alarm is None:
            self._alarm = threading.Timer(GRACE_SECONDS, self._force, (child.reason(),))
            self._alarm.daemon = True
            self._alarm.start()

    def _force(self, reason: str) -> None:
        """End this process, which hangs in a collective operation that can never finish."""
        try:
            self._give_up(reason)
            print(f"error: {reason}", file=sys.stderr, flush=True)
        finally:
            for child in self._children:
                child.kill()
            os._exit(1)

    def _end(self, failed: bool) -> None:
        if failed:
            for child in self._children:
                child.kill()
        disconnect()  # before the others have gone, if all is well: they do the same at their end
        for child in self._children:
            child.join()
        if self._alarm is not None:
            self._alarm.cancel()
        self._changes.close()


class _Child:
    """Another process of a run, on this machine."""

    def __init__(self, config: RunConfig, node: int, local_rank: int, on_failure: Callable[[_Child], None]) -> None:
        self.ready = threading.Event()  # set once it is ready to connect, or has ended
        self.output = ""  # all that it printed, once it has ended
        self._rank = node * config.devices + local_rank
        self._on_failure = on_failure
        self._killed = False
        self._told: dict[str, Any] = {}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `join`)
        # It is no NNI trial, even where this process is one, and it must find the same modules.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NNI_") or k == "NNI_CONFIG_DIR"}
        environment.pop("PL_GLOBAL_SEED", None)
        environment |= {"LOCAL_RANK": str(local_rank), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from nasbench.follower import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the first process, which ends the others
        )
        job = {"config": config.model_dump(mode="json"), "local_rank": local_rank}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has failed already, and the watch says why
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()  # it stays open: its end tells that this process is gone
        self._watch = threading.Thread(target=self._follow, daemon=True)
        self._watch.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told |= json.loads(line)
            if "ready" in self._told:
                self.ready.set()
        code = self._process.wait()
        self._errors.seek(0)
        self.output = self._errors.read().decode(errors="replace")
        if code != 0 and not self._killed:
            self._on_failure(self)
        self.ready.set()

    def reason(self) -> str:
        """Why it failed, in one line."""
        if "error" in self._told:
            return f"process {self._rank}: {self._told['error']}"
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"process {self._rank} was ended by {name}{hint}"
        last = (self.output.strip() or "no message").splitlines()[-1].strip()
        return f"process {self._rank} ended with exit code {code}: {last}"

    def error(self) -> Exception:
        """Its failure as an exception: a `NasbenchError` where the user can mend it."""
        return NasbenchError(self.reason()) if self._told.get("mendable") else RuntimeError(self.reason())

    def kill(self) -> None:
        """End it now."""
        self._killed = True
        self._process.kill()

    def join(self) -> None:
        """Wait until it has ended."""
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._watch.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
