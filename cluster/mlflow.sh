# The head sources this file before it starts Ray. If MLFLOW_TRACKING_URI is not set, it starts an MLflow server that the
# nodes of the cluster can reach, unless that server is running already, and sets the variable. A program beside the
# server keeps snapshots of a SQLite database in the root; a head without the database begins with the snapshot.
if [ -z "${MLFLOW_TRACKING_URI:-}" ]; then
    port=${MLFLOW_PORT:-5000}
    export MLFLOW_TRACKING_URI=http://$NODE_ADDRESS:$port
    answers() { curl -fs --max-time 5 "$@" "$MLFLOW_TRACKING_URI/health" > /dev/null; }
    if ! answers; then
        # a server with an empty database would soon replace the snapshot by an empty one
        python ~/sleepmodel/cluster/snapshots.py restore || return
        setsid nohup mlflow server --host "$NODE_ADDRESS" --port "$port" --workers 1 \
            --allowed-hosts "$NODE_ADDRESS:$port,localhost:$port,127.0.0.1:$port" \
            > ~/mlflow.log 2>&1 < /dev/null &
        answers --retry 60 --retry-delay 2 --retry-all-errors || { tail ~/mlflow.log; return 1; }
    fi
    setsid nohup python ~/sleepmodel/cluster/snapshots.py keep >> ~/mlflow-snapshots.log 2>&1 < /dev/null &
fi
