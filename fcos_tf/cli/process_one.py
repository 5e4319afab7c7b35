"""A tool as process 1 of a container."""

import contextlib
import os
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_process_one() -> None:
    """As process 1, starts a child that goes on from here; the parent ends as the child does.

    The kernel keeps every signal from process 1 that it has no handler for, so that SIGTERM would
    not end a tool before it trains, nor a second one afterwards. The parent passes signals on, as
    `docker run --init` does.
    """
    if os.getpid() != 1:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none is lost in between
    child = os.fork()
    if child:
        _pass_on_to(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _pass_on_to(child: int) -> None:
    def pass_on(number, _frame):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    # A terminal sends Ctrl-C to both.
    signal.signal(signal.SIGINT, signal.SIG_IGN if os.isatty(0) else pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    done = None
    while done != child:  # others are orphans
        done, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
