"""A profile's Prefect blocks: open them for a run, register them from YAML, check them."""
