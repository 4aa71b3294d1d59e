"""Publish a cleaned month: check its rows, make its manifest, and write its files to the lake."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import polars as pl

from nyc_tlc.cleaning.clean import CleanedMonth
from nyc_tlc.contract.dataset import Contract
from nyc_tlc.errors import SourceError
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.publication import publish_files
from nyc_tlc.lake.store import Lake
from nyc_tlc.settings import read_settings

log = logging.getLogger(__name__)

UNCHANGED = "the lake is not changed; look at the file, and publish it with --force if it is right"


def publish_month(
    cleaned: CleanedMonth,
    contract: Contract,
    lake: Lake,
    old_version: str | None,
    started_at: datetime,
    flow_run_id: str | None = None,
    *,
    force: bool = False,
) -> Manifest:
    """Publish a cleaned month, and return its manifest; it replaces the one in the lake.

    Args:
        old_version: The version of the month's manifest when the run began; None if there was no manifest.
        force: Whether to publish a month that has no rows, breaks a limit or may be incomplete.

    Raises:
        SourceError: when the month has no rows, too many rejected rows, fails the limit of a rule or may be incomplete;
            the lake is not changed.
        ReconciliationError: when the row counts differ; the lake is not changed.
        ConflictError: when another run published the month since this one began.
        TransientError: when the lake stopped answering; it has the old month or the new one.
        LakeError: when the lake can't be written.
    """
    if not force:
        _check_rows(cleaned, contract)
        _check_limits(cleaned.manifest, contract)
    made_by = {"flow_run_id": flow_run_id, "started_at": started_at, "finished_at": datetime.now(UTC)}
    manifest = cleaned.manifest.model_copy(update=made_by)
    manifest = publish_files(lake, manifest, cleaned.files, old_version)
    log.info("%s: published to %s", manifest.name, lake.url(""))
    return manifest


def _check_rows(cleaned: CleanedMonth, contract: Contract) -> None:
    """Check that the file may be the whole month. If it is another month's, nearly all its rows are rejected."""
    manifest = cleaned.manifest
    name, rows, quarantine = manifest.name, manifest.source.rows, manifest.quarantine
    if manifest.source.verified_by == "nothing":
        raise SourceError(f"{name}: nothing shows that the file is complete: its server states no size", fix=UNCHANGED)
    if rows == 0:
        raise SourceError(f"{name}: the file has no rows", fix=UNCHANGED)
    allowed, setting = contract.max_rejected, f"{contract.color}.yaml"
    if allowed is None:
        allowed, setting = read_settings().max_rejected, "TLC_MAX_REJECTED"
    share = 100 * quarantine.rows / rows
    if share > allowed:
        counts = ", ".join(f"{rule} {count:,}" for rule, count in quarantine.rules.items() if count)
        path = cleaned.files[quarantine.key]
        example = pl.scan_parquet(path, glob=False).head(1).drop("rejection_rules").collect().to_dicts()[0]
        values = ", ".join(f"{column}={value}" for column, value in example.items() if value is not None)
        raise SourceError(
            f"{name}: {share:.1f} % of its {rows:,} rows are rejected",
            expected=f"at most {allowed:g} % ({setting})",
            got=f"{counts}; the first one: {values[:400]}",
            fix=UNCHANGED,
        )


def _check_limits(manifest: Manifest, contract: Contract) -> None:
    """Check the month by the limits of its rules, on the counts that its report shows."""
    counts, rows = manifest.warnings | manifest.quarantine.rules, manifest.source.rows
    for rule in (rule for rule in contract.rules if rule.is_about(manifest.month_keys.month)):
        count = counts[rule.name] if rule.when else manifest.clean.rows
        if limit := rule.find_failed_limit(count, rows):
            raise SourceError(
                f"{manifest.name}: the rule {rule.name} ({rule.file or f'{contract.color}.yaml'}) fails for the month",
                expected=limit,
                got=f"{count:,} rows, {100 * count / rows:.1f} %",
                fix=UNCHANGED,
            )
