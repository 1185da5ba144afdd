#!/usr/bin/env bash
# Each worker runs this beside Ray. When AWS announces, two minutes ahead, that it takes this spot instance back, it tells
# Ray to drain the node: trainings save and continue elsewhere. It ends at once on any other machine.
set -euo pipefail
metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest
ask() { curl -fs --max-time 2 "$@"; }
token() { ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' "$metadata/api/token"; }
read_metadata() { ask -H "X-aws-ec2-metadata-token: $(token)" "$metadata/meta-data/$1"; }

[ "$(read_metadata instance-life-cycle)" = spot ] || exit 0
until read_metadata spot/instance-action > /dev/null; do sleep 5; done # not found until the instance is to be taken
exec ray drain-node --address="$RAY_HEAD_IP:6379" --reason=DRAIN_NODE_REASON_PREEMPTION \
    --reason-message='AWS takes this spot instance back' --deadline-remaining-seconds=120
