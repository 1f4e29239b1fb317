"""An OpenSSH server of a test's own, on loopback: own port, own keys, own home folder, own environment."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        port: of 127.0.0.1.
        user: who may log in.
        key: file of the private key that lets in.
        known_hosts: file with the server's public key.
        home: home folder of its sessions.
    """

    port: int
    user: str
    key: Path
    known_hosts: Path
    home: Path


def free_port(address: str = "127.0.0.1") -> int:
    """A port of one of this machine's addresses on which nobody listens."""
    with socket.socket() as s:
        s.bind((address, 0))
        return int(s.getsockname()[1])


@contextmanager
def server(folder: Path, **environment: str) -> Iterator[Server]:
    """Run a server as the current user, root or not.

    Args:
        folder: new, for its files.
        **environment: of its sessions.
    """
    assert SSHD is not None
    folder.mkdir(mode=0o700)
    home = folder / "home"
    home.mkdir()
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    sessions = " ".join(f'"{k}={v}"' for k, v in {"HOME": str(home), **environment}.items())
    (folder / "config").write_text(
        f"""ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/user.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
# Under pytest the folders above belong to the user, but may be open to others.
StrictModes no
# So that this machine can be told from itself: it is reached on 127.0.0.1, and comes back on 127.0.0.2.
GatewayPorts clientspecified
MaxSessions 50
Subsystem sftp internal-sftp
SetEnv {sessions}
"""
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)  # where root's processes give up their rights
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Server(port, getpass.getuser(), folder / "user", folder / "known_hosts", home)
    finally:
        process.terminate()
        process.wait(10)
