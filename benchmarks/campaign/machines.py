"""Machines on one computer: Linux namespaces with an address, a host name, processes and a shared memory of their own.

A machine is lost like a real one: all of its processes are gone at once. The whole campaign runs in a sandbox of the
same kind, so that nothing outlives it, however it ends: no process, mount or network link.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.campaign.processes import Process, all_processes, children

ROOT = Path(__file__).resolve().parents[2]
_INSIDE = "MEDCORE_CAMPAIGN_SANDBOX"
_SWITCH, _SUBNET = "machines", "10.77.0"
_NAMESPACES = ("--mount", "--net", "--uts", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc")
#: First process of a machine: it also collects orphans, as bash does while it waits.
_INIT = """
set -e
hostname {name}
mount --bind {folder} /tmp/ray
mount -t tmpfs -o size=1g tmpfs /dev/shm
ip link set lo up
read plugged_in
ip address add {address}/24 dev eth0
ip link set eth0 up
echo up
while :; do {idle} & wait $! || :; done
"""
_IDLE = "sleep 86400"


class SetupError(Exception):
    """The campaign cannot go on; one line."""


def in_sandbox() -> bool:
    return _INSIDE in os.environ


def why_no_sandbox() -> str | None:
    """Why this computer does not let us make machines; None if it does."""
    if missing := [tool for tool in ("unshare", "nsenter", "setpriv", "ip", "mount") if shutil.which(tool) is None]:
        return f"no {', '.join(missing)} (util-linux, iproute2)"
    probe = "ip link add probe type bridge && mount -t tmpfs tmpfs /mnt && unshare --pid --fork --mount-proc true"
    done = subprocess.run([*_unshare(), "sh", "-c", probe], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["unshare failed"])[-1]


def enter_sandbox(module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module` again in namespaces of its own and return its exit status.

    Raises `SetupError` where this computer does not allow that.
    """
    if problem := why_no_sandbox():
        raise SetupError(f"machines need Linux namespaces, which are not allowed here: {problem}")
    environment = os.environ | {_INSIDE: "1", "PYTHONPATH": str(ROOT)}
    # the sandbox ends with its child's death, and that child with ours
    command = ["setpriv", "--pdeathsig=KILL", *_unshare(), sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(command, env=environment)

    def hand_on(number: int, frame: object) -> None:
        for inner in children(child.pid):
            os.kill(inner.pid, signal.SIGINT)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to the inner process as well
    signal.signal(signal.SIGTERM, hand_on)
    return child.wait()


def _unshare() -> list[str]:
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *_NAMESPACES]


def prepare_network() -> None:
    """The switch that connects machines; this process is its .1. Once, inside of the sandbox."""
    ip("link set lo up")
    ip(f"link add {_SWITCH} type bridge")
    ip(f"address add {_SUBNET}.1/24 dev {_SWITCH}")
    ip(f"link set {_SWITCH} up")
    Path("/tmp/ray").mkdir(exist_ok=True)


def ip(words: str) -> None:
    run(["ip", *words.split()])


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"{shlex.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")


def wait_for(what: str, condition: Callable[[], object], seconds: float = 90, pause: float = 0.1) -> None:
    """Poll until `condition` holds. Raises `SetupError` if it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SetupError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)


class Machine:
    """A machine on the switch.

    Args:
        number: last part of its address, from 2 on. folder: receives `ray/` and a log for each command.
    """

    def __init__(self, name: str, number: int, folder: Path) -> None:
        self.name, self.address, self._folder, self._cable = name, f"{_SUBNET}.{number}", folder, f"to{number}"
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        script = _INIT.format(name=name, folder=shlex.quote(str(folder / "ray")), address=self.address, idle=_IDLE)
        with (folder / "machine.log").open("ab") as log:
            self._outer = subprocess.Popen(
                ["unshare", *_NAMESPACES, "bash", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the campaign
            )
        wait_for(f"machine {name}", lambda: children(self._outer.pid))
        self._init = children(self._outer.pid)[0]
        ip(f"link add {self._cable} type veth peer name eth0 netns {self._init.pid}")
        ip(f"link set {self._cable} master {_SWITCH} up")
        assert self._outer.stdin and self._outer.stdout
        self._outer.stdin.write("\n")
        self._outer.stdin.flush()
        if self._outer.stdout.readline() != "up\n":
            raise SetupError(f"machine {name} did not start, see {folder / 'machine.log'}")

    @property
    def alive(self) -> bool:
        return self._outer.poll() is None

    def start(self, command: Sequence[str], log: str, environment: Mapping[str, str]) -> Program:
        """Start a command on the machine; its output is appended to `log` in the machine's folder."""
        enter = ["nsenter", f"--target={self._init.pid}", "--mount", "--net", "--uts", "--pid", "--"]
        with (self._folder / log).open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                [*enter, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Program(process, self._folder / log, begin)

    def processes(self, part: str = "") -> list[Process]:
        """What was started here; only commands with `part` in them."""
        return [
            process
            for process in (all_processes() if self.alive else [])
            if process.namespace == self._init.namespace
            and process.pid != self._init.pid
            and process.command != _IDLE
            and part in process.command
        ]

    def kill(self) -> None:
        """Everything on it is gone at once."""
        self._outer.kill()
        self._outer.wait()

    def unplug(self) -> None:
        ip(f"link set {self._cable} down")

    def plug_in(self) -> None:
        ip(f"link set {self._cable} up")

    def remount(self, folder: Path, mode: str) -> None:
        """`ro` or `rw` for a mount as this machine sees it. Raises `SetupError` while a file there is being written."""
        run(["nsenter", f"--target={self._init.pid}", "--mount", "mount", "-o", f"remount,bind,{mode}", str(folder)])


class Program:
    """A command on a machine; the process seen from here only enters the machine and waits."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, begin: int) -> None:
        self._process, self.log, self._begin = process, log, begin

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_bytes()[self._begin :].decode(errors="replace")

    def last_line(self, about: str) -> str:
        """The last line that has `about` in it, else the last."""
        lines = [""] + [line.strip() for line in self.output().splitlines() if line.strip()]
        return [lines[-1], *(line for line in lines if about in line)][-1]

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL for the program itself, not for its children."""
        for child in children(self._process.pid):
            child.kill()
        self._process.wait()
