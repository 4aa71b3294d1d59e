"""Many months: what each needs, the plan, the record and the report."""
