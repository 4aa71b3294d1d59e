"""Prefect around the library: tasks, run names, command line, logs, progress, and runs here or on workers."""
