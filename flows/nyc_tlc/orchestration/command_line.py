"""A flow or another function as a command: arguments from its signature, one line for an expected failure.

Exit status: 0 done or already current, 1 failed, 2 wrong arguments, 3 not published yet.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, cast

import cyclopts
import httpx
from prefect import Flow, tags
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import ValidationError

from nyc_tlc.errors import ArgumentError, NotPublished, ReportedError, TlcError, TransientError
from nyc_tlc.months import Month
from nyc_tlc.orchestration.run_logs import RUN_LOGGERS, is_expected_failure, join_prefect
from nyc_tlc.orchestration.temporary_server import TEMPORARY_SERVER, end_orphaned_servers, mark_server
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import locate, name_source, read_requested_month

log = logging.getLogger(__name__)

#: As often as a deployment's run: the server takes a run of ours that is silent for 90 seconds for lost.
HEARTBEATS = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}

#: A list is given as ``--warehouses duckdb postgres``.
EVERY_VALUE = cyclopts.Parameter(consume_multiple=True, negative_iterable=())


def run(flow: Flow[..., Any]) -> NoReturn:
    """Run a flow as the script it stands in, and exit with a status that tells."""
    _exit_with(partial(_run_flow, flow))


def run_script(function: Callable[..., int], script: str) -> NoReturn:
    """Run a function that talks to the Prefect API as a script, and exit with the status that it returns.

    Args:
        function: Its signature and docstring are the command line's.
        script: The script's path in a clone, for the help.
    """
    _exit_with(partial(_run_function, function, script))


def _exit_with(body: Callable[[], int]) -> NoReturn:
    with temporary_settings(set_defaults=TEMPORARY_SERVER | HEARTBEATS):
        try:
            status = body()
        except cyclopts.CycloptsError as error:
            status = _fail(ArgumentError(_in_short(error)))
        except TlcError as error:
            status = _fail(error)
        sys.exit(status)


def _run_function(function: Callable[..., int], script: str) -> int:
    command, bound = _parse(function, script)
    # Where Google's library looked for credentials in vain is in the error already.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    try:
        return command(*bound.args, **bound.kwargs) or 0
    # In one line, and without the answer: it repeats what was sent, secrets too.
    except httpx.HTTPStatusError as error:
        raise TlcError(
            f"the Prefect API answered {error.response.status_code}",
            fix="PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING say which API and who you are there",
        ) from None
    except httpx.TransportError as error:
        raise TransientError(
            "the Prefect API can't be reached",
            got=type(error).__name__,
            fix="start it, or look where PREFECT_API_URL points",
        ) from None


def _run_flow(flow: Flow[..., Any]) -> int:
    arguments = _flow_arguments(flow)
    if arguments is None:
        return 0
    _quiet_terminal()
    if url := PREFECT_API_URL.value():
        _check_server(url)
    else:
        end_orphaned_servers()
        mark_server()
        log.info("starting a Prefect server for this run; PREFECT_API_URL can name one that is running")
    # The tags of the deployments, by which the automations know our runs.
    with tags("nyc-tlc", *([arguments["color"]] if "color" in arguments else [])):
        state = cast(State[Any], flow(**arguments, return_state=True))
    outcome = _outcome(state)
    if isinstance(outcome, TlcError):
        return _fail(outcome)
    if state.name == NotPublished.__name__:
        return _fail(NotPublished((state.message or "").partition("\n")[0]))
    if not state.is_completed():
        return _fail(TlcError(state.message or f"the run ended as {state.name}"))
    sys.stdout.write(f"{outcome.text if outcome else state.name}\n")
    return 0


def _check_server(url: str) -> None:
    """See that the Prefect server answers, whatever it answers.

    Raises:
        TransientError: when it doesn't.
    """
    try:
        httpx.get(f"{url}/health", timeout=10)
    except httpx.TransportError as error:
        raise TransientError(
            f"the Prefect server at {url} (PREFECT_API_URL) can't be reached",
            got=str(error) or type(error).__name__,
            fix="start it: .venv/bin/prefect server start; or unset PREFECT_API_URL: then each script starts one",
        ) from None


def _outcome(state: State[Any]) -> Any:
    """What the run returned or raised; None when a busy server, informed of its end twice, gave the bare state back."""
    try:
        return state.result(raise_on_failure=False)
    except MissingResult:
        return None


def _parse(function: Callable[..., Any], script: str) -> tuple[Callable[..., Any], inspect.BoundArguments]:
    """The function with its arguments from the command line, or what shows the help.

    Raises:
        CycloptsError: when they don't fit the signature.
    """
    app = cyclopts.App(name=f"python {script}", version_flags=[], default_parameter=EVERY_VALUE)
    app.default(function)
    command, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
    return command, bound


def _flow_arguments(flow: Flow[..., Any]) -> dict[str, Any] | None:
    """The flow's arguments from the command line, None when that only asked for help.

    Raises:
        CycloptsError: when they don't fit the signature.
        TlcError: when they fit but can't be meant, as far as can be known without any server.
    """
    command, bound = _parse(flow, f"flows/{flow.fn.__name__}.py")
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
        # Prefect keeps parameters and shows them; a setting stays in this process.
        os.environ["TLC_SOURCE"] = arguments.pop("source")
    return arguments


def _in_short(error: cyclopts.CycloptsError) -> str:
    """One sentence: pydantic's message for a value out of bounds is four lines."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return f"{str(error).partition('. ')[0]}: {cause.errors()[0]['msg']}"
    return str(error)


def _fail(error: TlcError) -> int:
    if isinstance(error, ReportedError):
        sys.stdout.write(f"{error.report}\n")
    kind = "not published" if isinstance(error, NotPublished) else "error"
    sys.stderr.write(f"{kind}: {error}\n")
    return error.exit_status


def _quiet_terminal() -> None:
    """Show the library's own log lines and other people's warnings; an expected failure is shown once, at the end."""
    join_prefect()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_worth_showing)


def _worth_showing(record: logging.LogRecord) -> bool:
    if record.name.startswith("nyc_tlc"):
        return True
    message = record.getMessage()
    about_the_end = is_expected_failure(record) or message.startswith("Finished in state")
    return record.levelno >= logging.WARNING and not (record.name in RUN_LOGGERS and about_the_end)
