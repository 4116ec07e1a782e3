# NATS of a bed, with JetStream unless TIDE_BED_NATS_JETSTREAM=0. TIDE_BED_NATS_CONFIG names a file of further
# configuration (tls, accounts, limits); it is copied, since the server includes files from its own folder alone.
nats_start() {
  rm -f "$state/nats/more.conf"
  [ -z "${TIDE_BED_NATS_CONFIG:-}" ] || cp "$TIDE_BED_NATS_CONFIG" "$state/nats/more.conf"
  {
    echo "server_name: bed"
    echo "listen: $host:$NATS_PORT"
    echo "http: 127.0.0.1:$NATS_MONITOR_PORT"
    # sync_interval "always" writes through to the disk before each acknowledgement; the server's own default is 2m.
    [ "${TIDE_BED_NATS_JETSTREAM:-1}" = 0 ] ||
      echo "jetstream { store_dir: '$state/nats/data', sync_interval: '${TIDE_BED_NATS_SYNC:-2m}' }"
    [ ! -e "$state/nats/more.conf" ] || echo "include 'more.conf'"
  } >"$state/nats/server.conf"
  launch nats "$nats_server_home/nats-server" -c "$state/nats/server.conf"
}

# The server greets every client with what it can do (unless TLS comes first); /healthz is 200 when its streams are
# recovered as well.
nats_ready() {
  local greeting status
  greeting=$(
    exec 2>/dev/null 3<>"/dev/tcp/$host/$NATS_PORT" || exit 1
    read -r -t 2 line <&3 && echo "$line"
  ) || grep -qs handshake_first "$state/nats/more.conf" || return 1
  [[ -z $greeting ]] || ! grep -q ^jetstream "$state/nats/server.conf" || [[ $greeting == *'"jetstream":true'* ]] || return 1
  status=$(
    exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$NATS_MONITOR_PORT" || exit 1
    printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
    read -r -t 2 line <&3 && echo "$line"
  ) || return 1
  [[ $status == *' 200 '* ]]
}

nats_stop() { stop_server nats TERM; }
