#!/usr/bin/env bash
# Make what the nodes of a cluster share and nobody else may have, where it is not there yet: Ray's token, and the
# authority that signs each node's certificate.
set -euo pipefail
umask 077
ray get-auth-token --generate > /dev/null
mkdir -p ~/.ray/tls
cd ~/.ray/tls
[ -e ca.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj /CN=sleepmodel -keyout ca.key -out ca.crt
ls -l ~/.ray/auth_token ~/.ray/tls
