"""Format a month's results for people: the Markdown of the artifacts, and the text for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nyc_tlc.cleaning.rules import BAD_VALUE, NULL_TEXT, ONE_MINUTE, UNPARSEABLE
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import LONGEST_PART
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.pages.anomalies import format_trend
from nyc_tlc.pages.coverage import describe_generated, list_facts
from nyc_tlc.shown import short_path, shown
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.load import Answer
from nyc_tlc.warehouse.volume import read_trailing

if TYPE_CHECKING:  # it imports the tasks, which format their artifacts here
    from nyc_tlc.runs.month import MonthInLake


def format_quality_report(manifest: Manifest, lake: Lake) -> str:
    """Format a month's quality report as Markdown."""
    source, clean, quarantine = manifest.source, manifest.clean, manifest.quarantine
    lines = [
        *_generated(manifest),
        f"# {manifest.name}",
        "",
        f"**{source.rows:,}** rows in, **{clean.rows:,}** clean, **{quarantine.rows:,}** quarantined"
        f" ({_share(manifest)} rejected).",
        "",
    ]
    rules = [
        (f"`{rule}`", severity, f"{rows:,}", _why(manifest, rule))
        for severity, counts in (("reject", quarantine.rules), ("warn", manifest.warnings))
        for rule, rows in counts.items()
    ]
    rules += [
        (f"`{rule.name}`", "month", f"{clean.rows:,}", rule.reason)
        for rule in read_contract(manifest.color).rules
        if not rule.when and rule.is_about(manifest.month_keys.month)
    ]
    lines += format_table(("Rule", "Severity", "Rows", "Why"), rules, right=("Rows",))
    lines += ["", "A rejected row counts under the first rule it breaks. Warnings count all rows of the source.", ""]
    if manifest.drift:
        lines += [f"**Drift**: columns the contract doesn't know: {_names(manifest.drift)}.", ""]
    if manifest.missing:
        lines += [f"**Missing**: columns the file should have had: {_names(manifest.missing)}.", ""]
    facts = [(name, f"`{shown(text, LONGEST_PART)}`") for name, text in list_facts(manifest, lake).items()]
    lines += format_table(("", ""), facts)
    trend = format_trend(manifest, read_trailing(lake, manifest))
    return "\n".join([*lines, "", trend]) if trend else "\n".join(lines) + "\n"


def format_summary(manifest: Manifest, lake: Lake, profile: str) -> str:
    """Format a month's results for a terminal; the last line is a command that shows the rows.

    For a bucket, the command uses the profile's credentials.
    """
    source, clean, quarantine = manifest.source, manifest.clean, manifest.quarantine
    lines = [
        f"{manifest.name}: {source.rows:,} rows in, {clean.rows:,} clean, {quarantine.rows:,} quarantined"
        f" ({_share(manifest)})"
    ]
    lines += [f"  {rule:<24}{rows:>12,}" for rule, rows in quarantine.rules.items() if rows]
    if manifest.drift:
        lines.append(f"  unknown columns: {', '.join(manifest.drift)}")
    lines += [f"{kind:<12}{lake.url(key)}" for kind, key in (("clean", clean.key), ("quarantine", quarantine.key))]
    if manifest.daily:
        lines.append(f"{'daily':<12}{len(manifest.daily)} files in {lake.url(f'daily/{manifest.color}')}")
    lines.append(f"{'manifest':<12}{lake.url(f'manifest/{manifest.color}/{manifest.month}.json')}")
    if lake.local_path(clean.key):
        rows = f"import pandas; print(pandas.read_parquet('{lake.url(clean.key)}'))"
    else:
        flows = short_path(Path(__file__).parents[2])
        month = f"'{manifest.color}', '{manifest.month}', profile='{profile}'"
        rows = f"import sys; sys.path.append('{flows}'); from nyc_tlc import trips; print(trips({month}))"
    lines.append(f'look at it: {short_path(Path(sys.executable))} -c "{rows}"')
    return "\n".join(lines)


def format_month(month: MonthInLake, lake: Lake, profile: str) -> str:
    """Format the results of a month that is in the lake now, for a terminal."""
    manifest = month.manifest
    assert manifest is not None
    summary = format_summary(manifest, lake, profile)
    if month.is_new:
        return summary
    made = f"made {manifest.finished_at:%Y-%m-%d %H:%M} UTC from the same source, contract and rules"
    return f"{manifest.name} is current, nothing to do: {made}\n{summary}"


def format_answers(manifest: Manifest, answers: Sequence[Answer]) -> str:
    """Format the loads of a month, each with an example query and its rows, for a terminal."""
    lines = []
    for answer in answers:
        done = "rows loaded into" if answer.new else "rows were loaded already, nothing to do:"
        lines += [f"{manifest.name}: {answer.load.row_count:,} {done} {answer.place}", f"  {answer.sql}"]
        lines += [f"  {' | '.join(shown(str(cell)) for cell in row)}" for row in answer.rows]
    return "\n".join(lines)


def format_answers_markdown(manifest: Manifest, answers: Sequence[Answer]) -> str:
    """Format the loads of a month, each with an example query and its rows, as Markdown."""
    lines = [*_generated(manifest), f"# {manifest.name} can be queried", ""]
    for answer in answers:
        done = "loaded" if answer.new else "already loaded"
        lines += [f"**{answer.load.row_count:,}** rows {done}: `{answer.place}`", "", "```sql", answer.sql, "```", ""]
        rows = [(shown(str(borough)), shown(str(zone)), f"{trips:,}") for borough, zone, trips in answer.rows]
        lines += [*format_table(("Borough", "Zone", "Trips"), rows, right=("Trips",)), ""]
    return "\n".join(lines)


def _generated(manifest: Manifest) -> list[str]:
    """Return the head of an artifact about a generated month."""
    generated = describe_generated([manifest])
    return [f"**{generated}**", ""] if generated else []


def _share(manifest: Manifest) -> str:
    return f"{100 * manifest.rejected_share:.2f} %"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _why(manifest: Manifest, rule: str) -> str:
    if rule == UNPARSEABLE:
        return "The line can't be parsed; its text is kept."
    if rule.startswith(BAD_VALUE):
        return f"The value of {rule.removeprefix(BAD_VALUE)} can't be read as the contract's type."
    if rule.startswith(NULL_TEXT):
        return f"A text in {rule.removeprefix(NULL_TEXT)} that other tools write for null."
    if rule.startswith(ONE_MINUTE):
        return f"All pick-ups of vendor {rule.removeprefix(ONE_MINUTE)} have the same minute of the hour."
    return {entry.name: entry.reason for entry in read_contract(manifest.color).rules}.get(
        rule, "The contract no longer has this rule."
    )
