#!/usr/bin/env bash
# Create the secrets that the nodes of a cluster share: Ray's token, and the certificate authority that signs each node's
# certificate. Existing ones are kept.
set -euo pipefail
umask 077
ray get-auth-token --generate > /dev/null
mkdir -p ~/.ray/tls
cd ~/.ray/tls
[ -e ca.crt ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj /CN=sleepmodel -keyout ca.key -out ca.crt
ls -l ~/.ray/auth_token ~/.ray/tls
