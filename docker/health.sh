#!/bin/bash
# Does HEALTH_URL answer 200? It is asked every few seconds, so without starting a Python: bash can open a connection.
[ -n "${HEALTH_URL:-}" ] || exit 0
address=${HEALTH_URL#http://}
host=${address%%/*}
exec 3<>"/dev/tcp/${host%:*}/${host#*:}" || exit 1
printf 'GET /%s HTTP/1.0\r\nHost: %s\r\n\r\n' "${address#*/}" "$host" >&3
read -r -t 4 _ status _ <&3
[ "$status" = 200 ]
