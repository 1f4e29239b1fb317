import contextlib
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from nasbench.errors import NasbenchError, OptionError
from nasbench.nni_bridge.portal import LOOPBACK

CONNECT_SECONDS = 30.0
COMMAND_SECONDS = 120.0
# Nobody is there to answer questions, and a machine whose key is not known is not trusted.
OPTIONS = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15", "ServerAliveInterval=15")


class Connection:
    """An SSH connection by OpenSSH's client, over which everything else goes. It ends with this process."""

    def __init__(self, host: str, port: int, user: str, key: str | None, known_hosts: Path | None) -> None:
        """Describe the connection; the client chooses where no private key, or no file of `known_hosts`, is given."""
        self.name = host if port == 22 else f"{host}:{port}"
        self._target = f"{user}@{host}"
        self._folder = Path(tempfile.mkdtemp(prefix="nasbench-"))  # a socket's path must be short
        self._control = ["ssh", "-S", str(self._folder / "s"), "-p", str(port)]
        for option in OPTIONS:
            self._control += ["-o", option]
        if known_hosts is not None:
            self._control += ["-o", f"UserKnownHostsFile={known_hosts}"]
        if key is not None:
            self._control += ["-i", key, "-o", "IdentitiesOnly=yes"]
        self._master: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Connect. Raises OptionError: there is no client, or this user is not let in; with the client's own words."""
        if shutil.which("ssh") is None:
            raise OptionError("machines are reached by the command ssh, which is not installed (OpenSSH's client)")
        errors = self._folder / "errors"
        with errors.open("wb") as file:
            # It lives as long as `cat` does, whose input ends when this process does, however that ends.
            self._master = subprocess.Popen(
                [*self._control, "-M", self._target, "exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,  # Ctrl-C must not cut the way by which the trials are told to end
            )
        deadline = time.monotonic() + CONNECT_SECONDS
        while not self._ask("check"):
            if self._master.poll() is not None or time.monotonic() > deadline:
                lines = errors.read_text(errors="replace").split("\n")
                reason = next((line.strip() for line in reversed(lines) if line.strip()), "no answer")
                self.close()
                raise OptionError(f"machine {self.name}: {reason}; `{' '.join(self._by_hand())}` must work")
            time.sleep(0.05)

    def close(self) -> None:
        """Disconnect."""
        if self._master is not None and self._master.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._master.stdin.close()
            try:
                self._master.wait(10)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, command: str, data: bytes = b"") -> bytes:
        """Run a shell command there on these data; returns its output. A NasbenchError has its last line of errors."""
        try:
            done = subprocess.run(
                [*self._control, self._target, command],
                input=data,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise NasbenchError(f"machine {self.name} does not answer") from e
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise NasbenchError(f"machine {self.name}: {lines[-1]}")
        return done.stdout

    def forward(self, address: str, port: int) -> bool:
        """Forward a port of a loopback address of the machine to the same port here; returns whether it was free."""
        return self._ask("forward", "-R", f"{address}:{port}:{LOOPBACK}:{port}")

    def download(self, folder: str, to: Path) -> None:
        """Copy a folder of the machine (`~` is its user's home) to a new one here; NasbenchError where that fails."""
        to.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        command = [*self._control, self._target, f"tar -C {quoted(folder)} -cf - ."]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            reason = ""
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                    archive.extractall(to, **options)
                process.stdout.read()  # the padding behind the end of the archive
            except (tarfile.TarError, OSError) as e:
                reason = str(e)
            told = process.stderr.read().decode(errors="replace").strip().splitlines()
        if process.returncode != 0 or reason:
            raise NasbenchError(f"machine {self.name}: {folder} was not copied: {told[0] if told else reason}")

    def write(self, path: str, content: str) -> None:
        """Write a file that only its user may read, and run if it is a program; NasbenchError where that fails."""
        target = quoted(path)
        self.run(
            f'umask 077 && mkdir -p "$(dirname {target})" && cat > {target} && chmod 700 {target}', content.encode()
        )

    def _ask(self, *request: str) -> bool:
        command = [*self._control, "-O", *request, self._target]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _by_hand(self) -> list[str]:
        kept = [word for word in self._control[3:] if word not in ("-o", *OPTIONS)]
        return ["ssh", *(f"-o{w}" if "=" in w else w for w in kept), self._target]


def quoted(path: str) -> str:
    """A path for a shell, in which a leading `~/` still means the home folder."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)
