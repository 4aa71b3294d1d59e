#!/bin/sh
# Remove from an environment what no run, worker or server needs: sh docker/prune.sh .venv/lib/python3.11/site-packages
set -eu

cd "$1"
# Descriptions of all of Google's services; the worker for Cloud Run reads the one of Cloud Run.
find googleapiclient/discovery_cache/documents -name '*.json' ! -name 'run.*.json' -delete
# Their own tests.
rm -rf pandas/tests pyarrow/tests
# For compiling against Arrow, and a network protocol that nothing here speaks.
rm -rf pyarrow/include pyarrow/libarrow_flight.so* pyarrow/libarrow_python_flight.so* pyarrow/_flight.*
