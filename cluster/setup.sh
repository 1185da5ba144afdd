#!/usr/bin/env bash
# Set a node up; run on each by `ray up`, again and again, so what is there already is left alone.
set -euo pipefail

type python3.11 make g++ openssl curl > /dev/null || {
    # a machine that has just started may be updating itself, and nobody answers questions here
    apt() { sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 "$@"; }
    apt update
    apt install -y software-properties-common make g++ openssl curl
    sudo add-apt-repository -y ppa:deadsnakes/ppa
    apt install -y python3.11-venv python3.11-dev
}

# torch's pin takes its CUDA build from PyPI, on nodes without a GPU too; to save them 5 GB, set PIP_INDEX_URL to
# PyTorch's CPU index for the first of make's two installations
extras=pipeline,cluster,s3
if command -v nvidia-smi > /dev/null && nvidia-smi > /dev/null; then extras=$extras,gpu; fi
make -C ~/sleepmodel install EXTRAS="$extras"

grep -qs sleepmodel.env ~/.bashrc || echo '. ~/sleepmodel.env' >> ~/.bashrc
. ~/sleepmodel.env

# gRPC compares the address that it calls with those in the certificate; an old one, or another authority's, is replaced
umask 077
openssl verify -CAfile ~/.ray/tls/ca.crt "$RAY_TLS_SERVER_CERT" > /dev/null 2>&1 || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
    -CA ~/.ray/tls/ca.crt -CAkey ~/.ray/tls/ca.key -subj "/CN=$NODE_ADDRESS" \
    -addext "subjectAltName=IP:$NODE_ADDRESS,IP:127.0.0.1,DNS:localhost" -addext basicConstraints=CA:FALSE \
    -keyout "$RAY_TLS_SERVER_KEY" -out "$RAY_TLS_SERVER_CERT"
