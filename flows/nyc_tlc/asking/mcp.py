"""Serve a profile's warehouse to agents, by the Model Context Protocol on stdin and stdout."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

import json
import threading
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from nyc_tlc import __version__, notebooks
from nyc_tlc.asking import door
from nyc_tlc.asking.ask import choose, to_json
from nyc_tlc.asking.describe import describe_questions, describe_tables, list_questions
from nyc_tlc.descriptions.dictionary import make_dictionary
from nyc_tlc.errors import TlcError
from nyc_tlc.runs.options import Profile
from nyc_tlc.warehouse.protocol import Kind

INSTRUCTIONS = """\
New York's taxi trip records, month by month, in a warehouse that can only be read. Call `months` for what is there,
`describe` for the tables and columns, and `query` with one SELECT. Name tables with their schema: ny_taxi.trips."""


def mcp(*, warehouse: Kind | None = None, profile: Profile = None) -> int:
    """Serve the warehouse to an agent by the Model Context Protocol, on stdin and stdout.

    The agent can list the months, read the descriptions, and run SELECTs as nyc-tlc ask does. It can change nothing.

    Args:
        warehouse: Which warehouse of the profile; the first if left out.
    """
    make_server(*choose(profile, warehouse)).run()
    return 0


def make_server(profile: str, kind: Kind) -> MCPServer[Any]:
    """Return the server. Its tools are called in threads; they open the warehouse one after the other."""
    server: MCPServer[Any] = MCPServer("nyc-tlc", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING")
    one_at_a_time = threading.Lock()

    @server.tool(structured_output=False)
    def months() -> str:
        """List the months in the lake and the warehouse: rows, share of rejected rows, source, and load."""
        try:
            with one_at_a_time:
                frame = notebooks.months(warehouses=[kind], profile=profile)
        except TlcError as error:
            raise ToolError(str(error)) from None
        return str(frame.to_json(orient="records", date_format="iso"))

    @server.tool(structured_output=False)
    def describe() -> str:
        """Describe the warehouse's tables and views, with all columns."""
        return describe_tables()

    @server.tool(structured_output=False)
    def query(sql: str) -> str:
        """Run one SELECT, and return its columns and rows as JSON; is_cut says that there are more rows."""
        try:
            with one_at_a_time:
                answer = door.ask(sql, profile, kind)
        except TlcError as error:
            raise ToolError(str(error)) from None
        return json.dumps({"columns": answer.columns, "rows": to_json(answer.rows), "is_cut": answer.is_cut})

    @server.tool(structured_output=False)
    def questions() -> str:
        """List questions to try, with their SQL."""
        return json.dumps(list_questions())

    @server.resource("nyc-tlc://data-dictionary", mime_type="text/markdown")
    def data_dictionary() -> str:
        """What every column holds, in which files it is, the rules for rows, and the codes."""
        return make_dictionary()

    @server.resource("nyc-tlc://questions", mime_type="text/markdown")
    def questions_to_try() -> str:
        """Questions to try, with their SQL."""
        return describe_questions()

    return server
