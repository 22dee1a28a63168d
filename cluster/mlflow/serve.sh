#!/usr/bin/env bash
# MLflow for many writers: PostgreSQL, object storage, basic authentication. What compose.yaml and the Kubernetes
# manifest share. Secrets are files in a memory file system, one each; no address and no argument holds one.
set -euo pipefail
secrets=${SECRETS:-/run/secrets}
for name in database_password admin_password session_key storage_key_id storage_key; do
    [[ -s $secrets/$name ]] || { echo "serve.sh: the secret $name is missing or empty" >&2; exit 1; }
done

PGPASSWORD=$(< "$secrets/database_password") # read by PostgreSQL's client
MLFLOW_AUTH_ADMIN_PASSWORD=$(< "$secrets/admin_password")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(< "$secrets/session_key")
AWS_ACCESS_KEY_ID=$(< "$secrets/storage_key_id")
AWS_SECRET_ACCESS_KEY=$(< "$secrets/storage_key")
export PGPASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
export MLFLOW_AUTH_CONFIG_PATH=${MLFLOW_AUTH_CONFIG_PATH:-/srv/auth.ini}
# two stores a worker process, 10 connections each at most: 80 of the 200 that the database allows
export MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=5 MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=5

# artifacts go through the server, so that trials need no key of the object storage
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 4 \
    --backend-store-uri postgresql://mlflow@postgres:5432/mlflow --artifacts-destination "$ARTIFACTS"
