"""What a Prefect server has for the deployments: work pools, limits and automations, as YAML says."""
