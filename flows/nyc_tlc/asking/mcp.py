"""Serve a profile's warehouse to agents, by the Model Context Protocol on stdin and stdout."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from nyc_tlc import __version__, notebooks
from nyc_tlc.asking import door
from nyc_tlc.asking.ask import choose, to_json
from nyc_tlc.asking.describe import describe_questions, describe_tables
from nyc_tlc.descriptions.dictionary import make_dictionary
from nyc_tlc.errors import TlcError
from nyc_tlc.profiles.opening import find_schema
from nyc_tlc.runs.options import Profile
from nyc_tlc.warehouse.protocol import Kind

INSTRUCTIONS = """\
New York's taxi trip records, month by month, in a warehouse that can only be read. Call `months` for what is there,
`describe` for the tables and columns, and `query` with one SELECT. Name tables with their schema: {schema}.trips."""

_turn = threading.Lock()


def mcp(*, warehouse: Kind | None = None, profile: Profile = None) -> int:
    """Serve the warehouse to an agent by the Model Context Protocol, on stdin and stdout.

    The agent can list the months, read the descriptions, and run SELECTs as nyc-tlc ask does. It can change nothing.

    Args:
        warehouse: Which warehouse of the profile; the first if left out.
    """
    profile, kind = choose(profile, warehouse)
    schema = find_schema(profile)
    instructions = INSTRUCTIONS.format(schema=schema)
    server: MCPServer[Any] = MCPServer("nyc-tlc", instructions=instructions, version=__version__, log_level="WARNING")

    @server.tool(structured_output=False)
    def months() -> str:
        """List the months in the lake and the warehouse: rows, share of rejected rows, source, and load."""
        with _taking_turns():
            frame = notebooks.months(warehouses=[kind], profile=profile)
            return str(frame.to_json(orient="records", date_format="iso"))

    @server.tool(structured_output=False)
    def query(sql: str) -> str:
        """Run one SELECT, and return its columns and rows as JSON; is_cut says that there are more rows."""
        with _taking_turns():
            return to_json(door.ask(sql, profile, kind))

    describe, questions = (lambda: describe_tables(schema)), (lambda: describe_questions(schema))
    server.tool("describe", description="Describe the tables and their columns.")(describe)
    server.tool("questions", description="List questions to try, with their SQL.")(questions)
    server.resource("nyc-tlc://data-dictionary", mime_type="text/markdown")(make_dictionary)
    server.resource("nyc-tlc://questions", name="questions", mime_type="text/markdown")(questions)
    server.run()
    return 0


@contextlib.contextmanager
def _taking_turns() -> Iterator[None]:
    """Let one tool at a time open the warehouse, as tools run in threads; tell the agent what is wrong."""
    with _turn:
        try:
            yield
        except TlcError as error:
            raise ToolError(str(error)) from None
