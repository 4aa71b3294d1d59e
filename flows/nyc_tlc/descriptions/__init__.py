"""What is generated from contracts and tables: the dictionary, dbt's sources, external tables, the catalog."""
