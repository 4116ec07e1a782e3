# Kafka of a bed: one process that is broker and controller (KRaft).
# TIDE_BED_KAFKA_LISTENERS (NAME://127.0.0.1:PORT, several by commas) are further listeners, advertised as localhost
# or as TIDE_BED_KAFKA_ADVERTISED (NAME://HOST:PORT, several by commas) says;
# TIDE_BED_KAFKA_PROPERTIES is a file of further properties, TIDE_BED_KAFKA_JAVA further options of java. A bed keeps
# what its first start was given.
kafka_start() {
  local home=$state/kafka more advertised java=()
  if [ ! -d "$home/data" ]; then
    rm -rf "$home/data.new"
    cp -r "$kafka_home/formatted" "$home/data.new"
    mv "$home/data.new" "$home/data"
  fi
  if [ ! -f "$home/more.properties" ]; then
    cat "${TIDE_BED_KAFKA_PROPERTIES:-/dev/null}" >"$home/more.properties"
    echo "${TIDE_BED_KAFKA_LISTENERS:-}" >"$home/more.listeners"
    echo "${TIDE_BED_KAFKA_ADVERTISED:-}" >"$home/more.advertised"
    echo "${TIDE_BED_KAFKA_JAVA:-}" >"$home/more.java"
  fi
  more=$(<"$home/more.listeners")
  more=${more:+,$more}
  advertised=$(<"$home/more.advertised")
  advertised=${advertised:+,$advertised}
  advertised=${advertised:-${more//127.0.0.1/localhost}}
  read -ra java <"$home/more.java" || true
  cat >"$home/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://$host:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT$more
advertised.listeners=PLAINTEXT://$host:$KAFKA_PORT$advertised
log.dirs=$home/data
auto.create.topics.enable=${TIDE_BED_KAFKA_AUTO_CREATE:-true}
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A killed broker is let in again when its old session has run out: after 3 s rather than 9 s.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# The inner topics' usual 50 partitions each would only make starts slow.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
$(<"$home/more.properties")
PROPERTIES
  launch kafka java -server -Xms256m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -Djava.awt.headless=true \
    "-Djava.io.tmpdir=$home" \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=info -Dorg.slf4j.simpleLogger.showDateTime=true \
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS" \
    "${java[@]}" -cp "$kafka_home/lib/*" kafka.Kafka "$home/server.properties"
}

# Asks for the cluster's metadata (request 3, version 1, no topics) without the two seconds that a Java tool takes.
# The reply (length, correlation id, number of brokers, ...) names only brokers that are registered and unfenced:
# from then on topics can be made, written and read.
kafka_ready() {
  local reply
  reply=$(
    exec 2>/dev/null 3<>"/dev/tcp/$host/$KAFKA_PORT" || exit 1
    printf '\0\0\0\021\0\003\0\001\0\0\0\007\0\003bed\0\0\0\0' >&3
    timeout 2 head -c 12 <&3 | od -An -v -tx1 | tr -d ' \n'
  ) || return 1
  [ "${reply:8}" = 0000000700000001 ]
}

kafka_stop() { stop_server kafka TERM; }
