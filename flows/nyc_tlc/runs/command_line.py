"""Run a flow or a function as a command: arguments from its signature, one line for an expected failure.

Exit status: 0 done or already current, 1 failed, 2 wrong arguments, 3 not published yet, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import cyclopts
import httpx
from prefect import Flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from pydantic import ValidationError

from nyc_tlc.errors import ArgumentError, ConfigurationError, NotPublished, ReportedError, TlcError, TransientError
from nyc_tlc.month import Month
from nyc_tlc.planning.month_plan import read_requested_month
from nyc_tlc.profiles.opening import LOCAL
from nyc_tlc.runs.catch_up import TROUBLED
from nyc_tlc.runs.interruption import end_if_interrupted, exit_with
from nyc_tlc.runs.own_server import own_password
from nyc_tlc.runs.run_logs import RUN_LOGGERS, is_expected_failure, join_prefect
from nyc_tlc.runs.temporary_server import start_server
from nyc_tlc.settings import CLONE, read_settings
from nyc_tlc.source.location import locate, name_source

log = logging.getLogger(__name__)

#: Seconds between heartbeats, as for deployments' runs: after 90 seconds without one an automation crashes the run.
HEARTBEATS = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}

#: Lists are given as ``--warehouses duckdb postgres``.
EVERY_VALUE = cyclopts.Parameter(consume_multiple=True, negative_iterable=())


def run(flow: Flow[..., Any], name: str = "") -> NoReturn:
    """Run a flow as the script that it is in, or as another command; exit with the module's exit status."""
    _exit_with(partial(_run_flow, flow, name or f"python flows/{flow.fn.__name__}.py"))


def run_script(function: Callable[..., int], name: str) -> NoReturn:
    """Run a function that uses the Prefect API as a command, and exit with the status that it returns."""
    _exit_with(partial(_run_function, function, name))


def _exit_with(body: Callable[[], int]) -> NoReturn:
    _ask_this_machine_directly()
    with temporary_settings(set_defaults=HEARTBEATS | own_password()):
        try:
            status = body()
        except cyclopts.CycloptsError as error:
            status = _fail(ArgumentError(_shorten(error)))
        except TlcError as error:
            status = _fail(error)
        exit_with(status)


def _ask_this_machine_directly() -> None:
    """Add this machine, where Prefect's server can be, to the hosts that are asked without a proxy."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if hosts != "*":
        os.environ["no_proxy"] = f"localhost,127.0.0.1,{hosts}"


def _run_function(function: Callable[..., int], name: str) -> int:
    command, bound = _parse(function, name)
    # Google's library warns of missing credentials; the error that follows says it too.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    try:
        return command(*bound.args, **bound.kwargs) or 0
    # The message leaves out the answer's text, because it repeats the request with its secrets.
    except httpx.HTTPStatusError as error:
        raise TlcError("the Prefect API refused a request", got=f"status {error.response.status_code}") from None


def _run_flow(flow: Flow[..., Any], name: str) -> int:
    arguments = _flow_arguments(flow, name)
    if arguments is None:
        return 0
    _quiet_terminal()
    find_server()
    home, profile = read_settings().home, arguments.get("profile", read_settings().profile)
    if profile == LOCAL and home.is_relative_to(CLONE) and Path.cwd() != CLONE.resolve():
        log.info("the lake is %s, the clone's", home / "lake")
    # The deployments' runs have the same tags; the automations select runs by them.
    with tags("nyc-tlc", *([arguments["color"]] if "color" in arguments else [])):
        state = cast(State[Any], flow(**arguments, return_state=True))
    outcome: Any = None
    # A busy server, which got the state twice, dropped the result.
    with contextlib.suppress(MissingResult):
        outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, TlcError):
        return _fail(outcome)
    if state.name == NotPublished.__name__:
        return _fail(NotPublished((state.message or "").partition("\n")[0]))
    if state.name == TROUBLED:
        return _fail(ReportedError(*(state.message or "").split("\n\n", 1)))
    if not state.is_completed():
        return _fail(TlcError(state.message or f"the run ended as {state.name}"))
    if text := outcome.text if outcome else state.name:
        sys.stdout.write(f"{text}\n")
    return 0


def find_server() -> None:
    """Check the Prefect server that is set; start one for this process if none is.

    Raises:
        TlcError: when the server is not usable.
    """
    if url := PREFECT_API_URL.value():
        _check_server(url)
    else:
        log.info("starting a Prefect server for this run; set PREFECT_API_URL to use a running one")
        start_server()


def _check_server(url: str) -> None:
    """Check that a Prefect server answers, and lets this process in.

    Raises:
        TransientError: when nothing answers.
        ConfigurationError: when something else does, or the server refuses.
    """
    other = ConfigurationError(
        f"what is at {url} (PREFECT_API_URL) is no Prefect API", fix="write it as http://127.0.0.1:4200/api"
    )
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in (401, 403):
            raise other from None
        raise ConfigurationError(
            f"the Prefect server at {url} (PREFECT_API_URL) refuses",
            got=f"status {error.response.status_code}",
            fix="set PREFECT_API_AUTH_STRING or PREFECT_API_KEY; make server keeps its password in prefect.toml",
        ) from None
    except (ValueError, httpx.UnsupportedProtocol):
        raise other from None
    except httpx.HTTPError as error:
        raise TransientError(
            f"the Prefect server at {url} (PREFECT_API_URL) can't be reached",
            got=str(error) or type(error).__name__,
            fix="start it: make server; or unset PREFECT_API_URL: then each script starts its own",
        ) from None


def _parse(function: Callable[..., Any], name: str) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """Return the function and its arguments from the command line; with ``--help``, a function that prints the help."""
    app = cyclopts.App(name=name, version_flags=[], default_parameter=EVERY_VALUE)
    app.default(function)
    command, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
    return command, bound


def _flow_arguments(flow: Flow[..., Any], name: str) -> dict[str, Any] | None:
    """Return the flow's arguments from the command line; None if the help was printed.

    Raises:
        CycloptsError: when the arguments don't fit the signature.
        TlcError: when the month or the source is not valid; this is checked before any server is needed.
    """
    if "--verbose" in sys.argv:
        sys.argv.remove("--verbose")
        os.environ["TLC_VERBOSE"] = "true"
    command, bound = _parse(flow, name)
    if command is not flow:
        command(*bound.args, **bound.kwargs)
        return None
    arguments = {name: value for name, value in bound.arguments.items() if value is not None}
    if "color" in inspect.signature(flow.fn).parameters:
        bound.apply_defaults()
        given = bound.arguments
        asked = read_requested_month(given["color"], given["year"], given["month"])
        if "source" in given:
            locate(given["source"] or read_settings().source, given["color"], asked or Month.current())
    if name_source(arguments.get("source", "")) != arguments.get("source", ""):
        # The source has a secret: Prefect stores and shows parameters, but a variable stays in this process.
        os.environ["TLC_SOURCE"] = arguments.pop("source")
    return arguments


def _shorten(error: cyclopts.CycloptsError) -> str:
    """Return an error as one sentence: pydantic's message for a value out of bounds has four lines."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return f"{str(error).partition('. ')[0]}: {cause.errors()[0]['msg']}"
    return str(error)


def _fail(error: TlcError) -> int:
    end_if_interrupted()
    if isinstance(error, ReportedError):
        sys.stdout.write(f"{error.report}\n")
    kind = "not published" if isinstance(error, NotPublished) else "error"
    sys.stderr.write(f"{kind}: {error}\n")
    return error.exit_status


def _quiet_terminal() -> None:
    """Show the library's log lines and others' warnings. An expected failure is hidden: it is printed at the end."""
    join_prefect()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_worth_showing)


def _worth_showing(record: logging.LogRecord) -> bool:
    if record.name.startswith("nyc_tlc"):
        return True
    message = record.getMessage()
    is_result = is_expected_failure(record) or message.startswith(("Finished in state", "Crash detected!"))
    return record.levelno >= logging.WARNING and not (record.name in RUN_LOGGERS and is_result)
