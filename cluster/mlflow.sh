# The head sources this file before it starts Ray. If MLFLOW_TRACKING_URI is not set, it starts an MLflow server that the
# nodes of the cluster can reach, unless that server is running already, and sets the variable.
if [ -z "${MLFLOW_TRACKING_URI:-}" ]; then
    export MLFLOW_TRACKING_URI=http://$NODE_ADDRESS:5000
    answers() { curl -fs --max-time 5 "$@" "$MLFLOW_TRACKING_URI/health" > /dev/null; }
    if ! answers; then
        setsid nohup mlflow server --host "$NODE_ADDRESS" --port 5000 --workers 1 \
            --allowed-hosts "$NODE_ADDRESS:5000,localhost:5000,127.0.0.1:5000" \
            > ~/mlflow.log 2>&1 < /dev/null &
        answers --retry 60 --retry-delay 2 --retry-all-errors || { tail ~/mlflow.log; false; }
    fi
fi
