"""Runs one command and lets nothing of it outlive whoever asked for it.

This file is a program of its own (`python -I -S supervisor.py FD PARENT COMMAND…`), written by hand
because no single kernel feature does the job: PR_SET_PDEATHSIG follows the spawning *thread* and is
not inherited by grandchildren, and a pipe alone stays open when a forked sibling holds its other
end. So a tiny process watches both the parent (through a pidfd) and a control socket, and is the
subreaper of all that the command starts: whatever happens to the parent, kill -9 included, the
whole tree goes.

Over the control socket it sends the command's process id and takes one-letter orders for it:
`T` SIGTERM, `K` SIGKILL, `S` SIGSTOP, `C` SIGCONT. It ends with the command's own exit status.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORDERS = {
    ord("T"): signal.SIGTERM,
    ord("K"): signal.SIGKILL,
    ord("S"): signal.SIGSTOP,
    ord("C"): signal.SIGCONT,
}


def main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    parent, command = int(sys.argv[2]), sys.argv[3:]
    parent_fd = os.pidfd_open(parent)
    if os.getppid() != parent:  # it died before we could watch it
        return 1
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = _spawn(libc, control, command)
    child_fd = os.pidfd_open(child)
    with contextlib.suppress(OSError):
        control.sendall(f"{child}\n".encode())
    _watch(control, parent_fd, child, child_fd)
    _kill_descendants(child)
    return _status(child)


def _spawn(libc: ctypes.CDLL, control: socket.socket, command: list[str]) -> int:
    child = os.fork()
    if child:
        # Here too: a signal for its group may come before the child has run its first line.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        return child
    try:
        os.setpgid(0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        control.close()
        os.execvp(command[0], command)  # noqa: S606
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(127)


def _watch(control: socket.socket, parent_fd: int, child: int, child_fd: int) -> None:
    """Pass orders on until the command ends by itself, or the parent is gone."""
    poll = select.poll()
    for fd in (parent_fd, child_fd, control.fileno()):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if child_fd in ready or parent_fd in ready:
            return
        orders = b""
        with contextlib.suppress(ConnectionResetError):  # closed without reading what we sent
            orders = control.recv(16)
        if not orders:  # the parent closed its end
            return
        for order in orders:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, ORDERS[order])


def _kill_descendants(child: int) -> None:
    """SIGKILL reaches stopped processes too; orphans come to us, the subreaper, and go next."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    while orphans := [pid for pid in _children() if pid != child]:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]


def _status(child: int) -> int:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code  # a shell's way to say "killed by a signal"


if __name__ == "__main__":
    sys.exit(main())
