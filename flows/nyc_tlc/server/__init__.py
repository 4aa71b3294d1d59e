"""Prepare a Prefect server for the deployments: work pools, limits and automations from YAML files."""
