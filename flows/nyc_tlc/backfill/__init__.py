"""Backfills: what each month needs, the plan, the record and the report."""
