#!/usr/bin/env bash
# Each worker runs this beside Ray. When AWS announces, two minutes ahead, that it takes this spot instance back, it tells
# Ray to drain the node: trainings save and continue elsewhere. It ends at once where the metadata service says that this
# is no spot instance. While the service does not answer, it says so once, and goes on asking.
set -euo pipefail
metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest
token() { curl -fs --max-time 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' "$metadata/api/token"; }
look() { # print what the service has of this name, which may be nothing; fail where it does not answer
    local answer
    answer=$(curl -s --max-time 2 -w '\n%{http_code}' -H "X-aws-ec2-metadata-token: $(token)" "$metadata/meta-data/$1") || return 1
    case ${answer##*$'\n'} in
        200) echo "${answer%$'\n'*}" ;;
        404) ;;
        *) return 1 ;;
    esac
}
ask() { # as look, once the service answers
    local told=
    until look "$1"; do
        [ "$told" ] || echo "$metadata does not answer: it is asked again every 5 seconds" >&2
        told=1
        sleep 5
    done
}

[ "$(ask instance-life-cycle)" = spot ] || exit 0
until [ "$(ask spot/instance-action)" ]; do sleep 5; done # nothing until the instance is to be taken
exec ray drain-node --address="$RAY_HEAD_IP:6379" --reason=DRAIN_NODE_REASON_PREEMPTION \
    --reason-message='AWS takes this spot instance back' --deadline-remaining-seconds=120
