"""Prefect around the library: tasks, run names, command line, logs, progress, running here or on workers."""
