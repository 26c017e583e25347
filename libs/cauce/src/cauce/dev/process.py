"""One child process that can be neither orphaned nor left half stopped."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cauce.dev.account import Account

__all__ = ["Process", "describe_exit"]

# Reads from a pipe that only our process holds open. A line means "released". End of file means that we
# died, however suddenly: then the child is asked to stop, and two seconds later killed with its whole group.
# A death signal (PR_SET_PDEATHSIG) would do less: it exists on Linux only, and it fires when the *thread*
# that started the child ends.
_GUARD = """
read -r released && exit 0
kill -"$1" "$2" 2>/dev/null
tries=0
while kill -0 "$2" 2>/dev/null && [ "$tries" -lt 40 ]; do tries=$((tries + 1)); sleep 0.05; done
kill -KILL "-$2" 2>/dev/null
"""


class Process:
    """A running child in a session of its own, which does not outlive this process.

    It never inherits our standard streams: input is empty and both outputs go to `output`, a descriptor
    the caller owns. `keep_open` are further descriptors the child inherits (a lock it holds until its end);
    `umask` is ours unless said otherwise. Methods may be called from any thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        output: int,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        keep_open: Sequence[int] = (),
        umask: int | None = None,
    ) -> None:
        """Raises OSError when the command cannot be executed; nothing runs then."""
        self._stop_signal = stop_signal
        self._child = subprocess.Popen(  # noqa: S603 — the command comes from the project itself
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=-1 if umask is None else umask,
        )
        self._guard: subprocess.Popen[bytes] | None = subprocess.Popen(  # noqa: S603 — a constant text
            [
                "/bin/sh",
                "-c",
                _GUARD,
                "cauce-guard",
                stop_signal.name.removeprefix("SIG"),
                str(self._child.pid),
            ],
            env={"PATH": os.defpath},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._child.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send to the process and its group (stop and continue); nothing happens when it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def ask_to_stop(self) -> None:
        """Send the stop signal to the process itself; what it started is its own to end first."""
        self._child.send_signal(self._stop_signal)

    def stop(self, *, grace_s: float) -> bool:
        """Ask, wait up to `grace_s`, then kill what is left of the group. True if asking was enough."""
        self.ask_to_stop()
        try:
            self._child.wait(grace_s)
            in_time = True
        except subprocess.TimeoutExpired:
            in_time = False
        self.kill()
        return in_time

    def abort(self) -> None:
        """SIGKILL for the whole group without waiting; `stop` or `kill` must still be called."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL for the whole group, now; returns when the process is gone."""
        self.abort()
        self._child.wait(5)
        self._release()

    def _release(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            guard.communicate(b"released\n", timeout=5)


def describe_exit(code: int) -> str:
    """`exit code 3`, or `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
