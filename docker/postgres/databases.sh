#!/bin/sh
# Runs once, on an empty volume: Prefect's database and the warehouse, each with an owner who sees no other. Its last
# command is its status, because the image may read it into a shell of its own.

psql --set ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set prefect_password `cat /run/secrets/prefect_database_password`
\set warehouse_password `cat /run/secrets/warehouse_password`
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE DATABASE prefect OWNER prefect;
REVOKE CONNECT ON DATABASE prefect FROM PUBLIC;
CREATE ROLE nyc_tlc LOGIN PASSWORD :'warehouse_password';
CREATE DATABASE ny_taxi OWNER nyc_tlc;
REVOKE CONNECT ON DATABASE ny_taxi FROM PUBLIC;
SQL
