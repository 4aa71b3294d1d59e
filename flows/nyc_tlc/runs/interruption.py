"""End a script within seconds of Ctrl-C, SIGTERM or a closed terminal, with one line and no scratch files.

The main thread gets a KeyboardInterrupt, so that the flow run becomes Crashed. A thread ends the process if that takes
too long: worker threads, and C code that waits for a database, do not notice an exception in the main thread.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

from nyc_tlc.workspace import remove_workspaces

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds that the main thread has to end by itself.
PATIENCE = 3.0

#: Called before an interrupted process ends.
at_end: list[Callable[[], object]] = [remove_workspaces]
_received: list[int] = []
_is_received = threading.Event()
_ending = threading.Lock()


def expect_signals() -> None:
    """Install the handlers. A signal that the process was started to ignore, as by nohup, stays ignored."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    _handle(_interrupt)
    # A handler waits until the main thread returns from C code; the pipe gets the signal at once.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="signals", daemon=True).start()
    sys.excepthook = _end_or_show


def end_with_parent() -> None:
    """Let this process end with the one that started it, however that ends, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_await_parent, name="parent", daemon=True).start()


def _await_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        remove_workspaces()
        os._exit(1)


def end_if_interrupted() -> None:
    """End the process if it has received a signal."""
    if _is_received.is_set():
        _end()


def exit_with(status: int) -> NoReturn:
    """Exit with a status; a signal now only shortens the exit, in which Prefect sends its last log lines."""
    if signal.getsignal(signal.SIGTERM) is _interrupt:
        signal.set_wakeup_fd(-1)
        _handle(lambda *_: os._exit(status))
    sys.exit(status)


def _handle(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    logging.disable()  # what is logged from here on is about the end itself
    raise KeyboardInterrupt


def _watch(pipe: int) -> None:
    while (number := os.read(pipe, 1)[0]) not in SIGNALS:
        pass
    logging.disable()
    threading.excepthook = lambda _: None
    _received.append(number)
    _is_received.set()
    # A second signal ends the process at once.
    select.select([pipe], [], [], PATIENCE)
    _end()


def _end_or_show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # The exception may be another one: an import that is interrupted can raise ImportError.
    if _is_received.wait(0.2 if issubclass(kind, KeyboardInterrupt) else 0):
        _end()
    sys.__excepthook__(kind, error, traceback)


def _end() -> NoReturn:
    _ending.acquire()
    for call in at_end:
        with contextlib.suppress(Exception):
            call()
    # Past sys.stderr, in whose place progress bars may be; at a terminal, the line starts anew and the cursor is shown.
    with contextlib.suppress(OSError):
        start = b"\r\x1b[K\x1b[?25h" if os.isatty(2) else b""
        os.write(2, start + b"interrupted: nothing is half done; the same command does the rest\n")
    os._exit(128 + _received[0])
