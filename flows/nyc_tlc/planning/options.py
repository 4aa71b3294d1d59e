"""How months are made: one value for a flow's options, from its parameters to each step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nyc_tlc.lake.keys import Layout
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.protocol import Kind


@dataclass(frozen=True)
class MonthOptions:
    """The options of a run, named as the flows' parameters.

    Attributes:
        source: A source's name or a template.
        warehouses: Where months are loaded; empty for the lake alone.
        verify: Whether the digests of the lake's files are compared, and not only their sizes.
    """

    source: str
    profile: str
    warehouses: tuple[Kind, ...] = ()
    layout: Layout = "month"
    force: bool = False
    verify: bool = False

    @classmethod
    def of(
        cls,
        source: str | None,
        profile: str | None,
        warehouses: Iterable[Kind] = (),
        layout: Layout = "month",
        *,
        force: bool = False,
        verify: bool = False,
    ) -> MonthOptions:
        """Return the options of a flow's parameters; ``TLC_SOURCE`` and ``TLC_PROFILE`` stand for what is None."""
        settings = read_settings()
        source, profile = source or settings.source, profile or settings.profile
        return cls(source, profile, tuple(warehouses), layout, force, verify)
