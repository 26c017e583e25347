#!/bin/sh
# One database and one role for each service, on the empty PostgreSQL of compose.yaml.
# The passwords come from the environment; psql reads them there, so that no argument list shows them.
set -eu

for service in accounts mailing music_discovery; do
    variable=$(echo "${service}_DB_PASS" | tr '[:lower:]' '[:upper:]')
    if [ -z "$(printenv "$variable")" ]; then
        echo "$variable is empty. scripts/make-env.sh makes .env with it; in one of your own, add it." >&2
        exit 1
    fi
    psql --no-psqlrc --quiet --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
        --set=ON_ERROR_STOP=1 --set=service="$service" <<SQL
\getenv password $variable
CREATE ROLE :"service" LOGIN PASSWORD :'password';
CREATE DATABASE :"service" OWNER :"service";
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
SQL
done
