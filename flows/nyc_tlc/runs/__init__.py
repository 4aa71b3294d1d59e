"""Runs: the tasks, a month, a backfill here and on workers, names, progress, dbt, the command line."""
