#!/bin/sh
# Secrets come as files, NAME_FILE, because everyone who may look at a container sees its variables. Prefect and the
# profiles read variables, so they are made here, for this process and its children alone.
set -eu

for name in GCP_SERVICE_ACCOUNT_INFO POSTGRES_PASSWORD PREFECT_API_AUTH_STRING PREFECT_API_KEY \
	PREFECT_SERVER_API_AUTH_STRING PREFECT_SERVER_DATABASE_PASSWORD PREFECT_SERVER_ENCRYPTION_KEY; do
	eval "file=\${${name}_FILE:-}"
	unset "${name}_FILE"
	[ -n "$file" ] || continue
	value=$(cat "$file")
	if [ -z "$value" ]; then
		echo "error: the secret $name is empty; write it into $file" >&2
		exit 1
	fi
	export "$name=$value"
done

exec "$@"
