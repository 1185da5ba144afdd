#!/usr/bin/env bash
# Set up a node. `ray up` runs this on every node each time, so everything that exists already is kept.
set -euo pipefail

type python3.11 make g++ openssl curl > /dev/null || {
    # wait for the lock: a machine that has just started may be updating itself
    apt() { sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 "$@"; }
    apt update
    apt install -y software-properties-common make g++ openssl curl
    sudo add-apt-repository -y ppa:deadsnakes/ppa
    apt install -y python3.11-venv python3.11-dev
}

# PyPI serves torch's CUDA build, also to nodes without a GPU. To save 5 GB on those, set PIP_INDEX_URL to PyTorch's CPU
# index for the first of the two installations in the Makefile.
extras=pipeline,cluster,s3
if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null; then extras=$extras,gpu; fi
make -C ~/sleepmodel install EXTRAS="$extras"

grep -qs sleepmodel.env ~/.bashrc || echo '. ~/sleepmodel.env' >> ~/.bashrc
. ~/sleepmodel.env

# The certificate names the node's addresses, as gRPC compares them with the one that it connects to. An expired
# certificate, or one of another authority, is replaced.
umask 077
openssl verify -CAfile ~/.ray/tls/ca.crt "$RAY_TLS_SERVER_CERT" > /dev/null 2>&1 || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
    -CA ~/.ray/tls/ca.crt -CAkey ~/.ray/tls/ca.key -subj "/CN=$NODE_ADDRESS" \
    -addext "subjectAltName=IP:$NODE_ADDRESS,IP:127.0.0.1,DNS:localhost" -addext basicConstraints=CA:FALSE \
    -keyout "$RAY_TLS_SERVER_KEY" -out "$RAY_TLS_SERVER_CERT"
