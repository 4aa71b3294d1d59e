"""Warehouses: tables, lookup tables and loads, the same for DuckDB, Postgres and BigQuery."""
