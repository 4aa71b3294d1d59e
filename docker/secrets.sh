#!/bin/sh
# Make the secrets of compose.yaml that aren't there yet: random ones in docker/secrets, which git and the image ignore.
set -eu

folder=$(dirname "$0")/secrets
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

# In a container the owner of these files is nobody it knows. So they can be read by all, and it is the folder that
# keeps others on this machine away; a container gets single files, past the folder.
save() {
	if [ -s "$folder/$1" ]; then
		echo "kept  $folder/$1"
	else
		printf '%s' "$2" >"$folder/$1"
		chmod 444 "$folder/$1"
		echo "made  $folder/$1"
	fi
}

password() {
	od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'
}

save postgres_password "$(password)"
save prefect_database_password "$(password)"
save warehouse_password "$(password)"
save prefect_auth "admin:$(password)"
# A key as Prefect wants it: 32 bytes in URL-safe base64.
save prefect_encryption_key "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n')"
