# PostgreSQL of a bed.
postgres_start() {
  local data=$state/postgres/data fresh=$state/postgres/data.new
  if [ ! -d "$data" ]; then
    rm -rf "$fresh"
    mkdir "$fresh"
    [ ${#as_postgres[@]} = 0 ] || chown postgres: "$fresh"
    init_database "$fresh" >>"$state/postgres/log" 2>&1 || complain postgres "cannot be initialised" || return 1
    mv "$fresh" "$data"                       # so what is called data is whole
  fi
  rm -f "$data/postmaster.pid"                # kill_server made sure that nobody is left; the pid may be another's now
  postgres_access "$data" || complain postgres "cannot be given its certificates or pg_hba.conf" || return 1
  launch postgres "${as_postgres[@]}" "$postgres_bin/postgres" -D "$data" -c "port=$POSTGRES_PORT"
}

# Certificates and pg_hba.conf as the settings say, at every start; without settings as they were.
postgres_access() {
  local data=$1 from=${TIDE_BED_POSTGRES_TLS:-} name
  if [ -n "$from" ]; then
    for name in server.crt server.key ca.crt; do
      # The server refuses a key that others can read.
      install_for_postgres 600 "$from/$name" "$data/$name" || return 1
    done
    cat >"$data/tls.conf" <<'CONF' || return 1
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'
CONF
    grep -q tls.conf "$data/postgresql.conf" || echo "include_if_exists = 'tls.conf'" >>"$data/postgresql.conf"
  fi
  [ -z "${TIDE_BED_POSTGRES_HBA:-}" ] || install_for_postgres 600 "$TIDE_BED_POSTGRES_HBA" "$data/pg_hba.conf"
}

install_for_postgres() {
  local owner=()
  [ ${#as_postgres[@]} = 0 ] || owner=(-o postgres -g postgres)
  install -m "$1" "${owner[@]}" "$2" "$3"
}

init_database() {
  local network=127.0.0.1/32
  [ "$host" = 127.0.0.1 ] || network=${host%.*}.0/24
  "${as_postgres[@]}" "$postgres_bin/initdb" -D "$1" --username=postgres --auth=reject --encoding=UTF8 \
    --locale=C.UTF-8 --no-sync --no-instructions || return 1
  cat >"$1/pg_hba.conf" <<HBA || return 1
host all         all $network scram-sha-256
host replication all $network scram-sha-256
HBA
  cat >>"$1/postgresql.conf" <<CONF || return 1

# --- the test bed's settings
listen_addresses = '$host'
unix_socket_directories = ''
max_connections = 200
max_prepared_transactions = 20
shared_buffers = 256MB
max_wal_size = 4GB
wal_level = replica
fsync = on
log_line_prefix = '%m [%p] %q%u@%d %a '
CONF
  [ "$postgres_major" -lt 18 ] ||
    echo "extension_control_path = '\$system:$state/extension-root'" >>"$1/postgresql.conf" || return 1
  # Single-user mode: one statement a line, without a server.
  "${as_postgres[@]}" "$postgres_bin/postgres" --single -D "$1" postgres <<'SQL'
ALTER ROLE postgres PASSWORD 'postgres'
CREATE ROLE tide LOGIN NOSUPERUSER CREATEDB CREATEROLE PASSWORD 'tide'
CREATE DATABASE tide OWNER tide
SQL
}

postgres_url() { echo "postgres://$1:$1@$host:$POSTGRES_PORT/$2"; }

postgres_ready() {
  PGCONNECT_TIMEOUT=2 "$postgres_tools/psql" -XqAt -c 'select' "$(postgres_url tide tide)" >/dev/null 2>&1
}

# Each of PostgreSQL's processes works in the data folder, and none leaves it: so backends whose postmaster was
# killed by somebody else are found as well.
postgres_children() {
  local pid link
  # find fails whenever a process ends under its eyes.
  { find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' -printf '%P %l\n' 2>/dev/null || true; } | while read -r pid link; do
    pid=${pid%/cwd}
    [ "${link% (deleted)}" = "$state/postgres/data" ] || continue
    [ "$(readlink "/proc/$pid/exe" || true)" = "$postgres_bin/postgres" ] || continue
    echo "$pid $(start_time "$pid" || true)"
  done
}

postgres_stop() { stop_server postgres INT; }  # "fast": sessions are ended, then a checkpoint

# The project's extension, if the checkout can make it, where extension_control_path looks.
postgres_extension() {
  local make=$here/../schema/make-extension
  [ -x "$make" ] || return 0
  mkdir -p "$state/extension-root"
  # Without the lock: a build may leave a daemon behind, a compiler cache say, that would hold it.
  "$make" "$state/extension-root" --with-earlier >"$state/make-extension.log" 2>&1 {lock_fd}>&- ||
    { tail -n 25 "$state/make-extension.log" >&2; die "schema/make-extension failed for bed $bed"; }
}
