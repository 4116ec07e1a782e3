//! Pipelines that say all they can. What excludes each other is in several of
//! one connector.

/// Every option of all sinks.
const FORWARD: &str = r"
forward:
  outboxRef: {name: orders}
  consumerGroup: relay
  batchSize: 100
  maxInFlight: 500
  encoding: cloudevents
  cloudevents: {source: /shop, type: '{event_type}', subject: '{payload.id}'}
  filter: {headers.event_type: [a, b], payload.n: {not: 3}}
  ordering: strict
  deadLetter: {enabled: true, maxRetries: 3}
  retry: {initial: 250ms, max: 30s}
  sink:";

/// Every option of all sources.
const REVERSE: &str = r"
reverse:
  inboxRef: {name: payments}
  batchSize: 100
  idempotent: false
  maxRetries: 5
  filter: {headers.event_type: {exists: true}}
  deadLetter: {enabled: false, maxRetries: 3}
  retry: {initial: 250ms, max: 30s}
  messageIdHeader: x-id
  dedupKey: order.id
  source:";

const KAFKA_CONNECTION: [&str; 2] = [
    "brokers: [one:9092, two:9092]
clientId: shop
librdkafka: {socket.timeout.ms: '10000'}
tls:
  caSecretRef: {name: ca}
  clientCertSecretRef: {name: client}
  keyPasswordSecretRef: {name: client, key: password}
sasl: {mechanism: SCRAM-SHA-512, username: relay, secretRef: {name: user}}",
    "brokers: [one:9092]
sasl:
  mechanism: OAUTHBEARER
  oauth: {tokenUrl: 'https://login/token', clientId: relay, clientSecretRef: {name: oauth, key: secret}, scope: kafka}",
];

const KAFKA_SINK: &str = "topic: '{payload.region}-orders'
key: '{event_type}'
partition: 3
acks: all
compression: zstd
lingerMs: 5
batchBytes: 100000
headers: {x-a: '{event_type}'}
delivery: transactional";

const KAFKA_SOURCE: &str = "topics: [orders, payments]
consumerGroup: shop
start: latest";

const NATS_CONNECTION: [&str; 4] = [
    "url: tls://one:4222,tls://two:4222
credentialsSecretRef: {name: nats, key: user.creds}
tls: {caSecretRef: {name: ca}, clientCertSecretRef: {name: client}, handshakeFirst: true}
inboxPrefix: _INBOX_shop",
    "url: nats://one:4222
nkeySecretRef: {name: nats, key: seed}",
    "url: nats://one:4222
tokenSecretRef: {name: nats, key: token}",
    "url: nats://one:4222
login: {secretRef: {name: nats}}",
];

const NATS_SINK: &str = "subject: orders.{event_type}
stream: ORDERS
createStream: false
headers: {x-a: '{event_type}'}
delivery: at-least-once";

const NATS_SOURCE: &str = "subject: payments.>
jetstream: true
stream: PAYMENTS
createStream: false
durable: shop
queueGroup: shop";

const INBOX_SINK: [&str; 2] = [
    "inbox: orders
url: postgres://db/other
user: relay
passwordSecretRef: {name: other, key: password}
messageIdHeader: x-id
origin: shop
skipIfPassed: [billing]
delivery: exactly-once",
    "inbox: orders
urlSecretRef: {name: other, key: uri}
userSecretRef: {name: other, key: username}",
];

const WEBHOOK_SINK: [&str; 2] = [
    "url: https://hooks/orders/{payload.id}
method: POST
mode: batch
maxBytes: 100000
headers:
- {name: X-Source, value: shop}
- {name: Authorization, valueFrom: {secretKeyRef: {name: hook, key: authorization}}}
signingSecretRef: {name: hook, key: signing}
timeout: 10s
key: '{payload.customer_id}'
concurrency: 16
allowPrivate: true
tls: {caSecretRef: {name: ca}, clientCertSecretRef: {name: client}}
delivery: at-least-once",
    "urlSecretRef: {name: hook, key: url}",
];

/// Direction, connector and what is below spec.
pub fn maximal() -> Vec<(&'static str, &'static str, String)> {
    let mut all = Vec::new();
    let mut add = |direction, connector, parts: &[&str]| {
        let (head, indent) = match direction {
            "forward" => (FORWARD, "      "),
            _ => (REVERSE, "      "),
        };
        let lines: String = parts
            .iter()
            .flat_map(|p| p.lines())
            .map(|line| format!("{indent}{line}\n"))
            .collect();
        all.push((direction, connector, format!("{head}\n    {connector}:\n{lines}")));
    };
    for connection in KAFKA_CONNECTION {
        add("forward", "kafka", &[connection, KAFKA_SINK]);
        add("reverse", "kafka", &[connection, KAFKA_SOURCE]);
    }
    for connection in NATS_CONNECTION {
        add("forward", "nats", &[connection, NATS_SINK]);
        add("reverse", "nats", &[connection, NATS_SOURCE]);
    }
    for inbox in INBOX_SINK {
        add("forward", "inbox", &[inbox]);
    }
    for webhook in WEBHOOK_SINK {
        add("forward", "webhook", &[webhook]);
    }
    add("forward", "stdout", &["delivery: at-least-once"]);
    all
}
