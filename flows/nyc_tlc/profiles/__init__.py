"""A profile's Prefect blocks: opened for a run, registered from YAML, checked."""
