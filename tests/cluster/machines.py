"""Two machines out of one: each an sshd on a loopback address, in a PID and mount namespace of its own, so that
`ray stop` on one of them, which ends every Ray that it sees, sees no other. They share a home, as
machines with NFS do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.waiting import Background, run

PORT = 2222
# not 127.0.0.1, which Ray takes for the address of the network card
HEAD, WORKER = "127.0.0.2", "127.0.0.3"
NEEDED = ("sshd", "ssh", "ssh-keygen", "rsync", "unshare", "openssl", "make", "g++", "curl")
# how pip reaches its index is this machine's affair
PASSED_ON = ("PIP_", "SSL_", "HTTP_", "HTTPS_", "NO_PROXY")


def obstacle() -> str | None:
    """Why there can be no machines here; None where there can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [program for program in NEEDED if shutil.which(program, path=path) is None]:
        return f"{', '.join(missing)} not found: apt-get install openssh-server rsync util-linux openssl make g++ curl"
    if subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], capture_output=True).returncode:
        return "no right to make namespaces: run as root"
    return None


@contextmanager
def machines(directory: Path) -> Iterator[dict[str, str]]:
    """Both machines, with the home `directory`/home; yields the environment of a shell that may log in to them."""
    home, programs = directory / "home", directory / "programs"
    for made in (home, programs):
        made.mkdir(parents=True)
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    # another port than 22, and a key: ssh takes ~ for the home of the user database
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {PORT} -i {key} "$@"\n')
    wrapper.chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    # where the head's autoscaler finds the wrapper, too, and the setup this Python
    (home / ".bashrc").write_text(f"export PATH={programs}:{sys.base_prefix}/bin:$PATH\n")
    environment = {**os.environ, "HOME": str(home), "PATH": path}
    with ExitStack() as stack:
        for address in (HEAD, WORKER):
            stack.enter_context(_machine(address, directory, home, key))
        yield environment


@contextmanager
def _machine(address: str, directory: Path, home: Path, key: Path) -> Iterator[None]:
    state = directory / address
    (state / "ray").mkdir(parents=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    passed = " ".join(f'{name}="{value}"' for name, value in os.environ.items() if name.upper().startswith(PASSED_ON))
    settings = state / "sshd_config"
    settings.write_text(
        f"ListenAddress {address}:{PORT}\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nPidFile none\nStrictModes no\n"
        f'PasswordAuthentication no\nSubsystem sftp internal-sftp\nSetEnv HOME="{home}" {passed}\n'
    )
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ["PATH"])
    shell = f"mount --bind {state}/ray /tmp/ray && exec {sshd} -D -e -f {settings}"
    command = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", shell]
    with Background(command) as process:  # with the first process of its namespace all others are killed
        login = ["ssh", "-p", str(PORT), "-i", str(key), "-o", "StrictHostKeyChecking=no"]
        login += ["-o", "UserKnownHostsFile=/dev/null", address, "true"]
        process.until(lambda: run(login).returncode == 0, f"a login at {address}")
        yield
