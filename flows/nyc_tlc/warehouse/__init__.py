"""What is queried: tables, lookups and loads, the same for DuckDB, Postgres and BigQuery."""
