#!/bin/bash
set -euo pipefail

create_cluster() {
  initdb --pgdata="$PGDATA" --username=postgres --auth=scram-sha-256 --pwfile=<(echo "${POSTGRES_PASSWORD:?}") \
    --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null
  printf 'host %s all all scram-sha-256\n' all replication >>"$PGDATA/pg_hba.conf"
  {
    echo "listen_addresses = '*'"
    # the minor releases of 2026 refuse plugins that are not named; older ones refuse the setting
    if [[ $(postgres --describe-config) == *$'\noutput_plugin_libraries\t'* ]]; then
      echo "output_plugin_libraries = 'pgoutput,test_decoding,wal2json'"
    fi
    echo "${POSTGRES_SETTINGS-}"
  } >>"$PGDATA/postgresql.conf"
}

[ -s "$PGDATA/PG_VERSION" ] || create_cluster
rm -f "$PGDATA/postmaster.pid" # of a container that was killed: no other process can be in this one
exec postgres
