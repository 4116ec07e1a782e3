//! Kafka: a password and a token, right and wrong.

use std::sync::Arc;

use pg_tide_e2e::{Listener, SecuredKafka, reference};
use serde_json::{Value, json};

use super::{Case, Ends, Secrets};

/// A broker that wants to know who comes, and pipelines for it.
pub(super) async fn kafka(secrets: &mut Secrets) -> (Arc<SecuredKafka>, Vec<Case>) {
    let broker = SecuredKafka::shared().await;
    // Shorter than what Secrets takes for one.
    for value in [SecuredKafka::PASSWORD, SecuredKafka::CLIENT_SECRET] {
        secrets.values.push(value.to_owned());
    }
    let options = |more: Value| {
        let mut options = json!({
            "brokers": broker.address(Listener::SaslTls), "security_protocol": "sasl_ssl",
            "tls_ca": reference(&broker.ca),
        });
        let object = options.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        options
    };
    let login = |password: String| {
        options(
            json!({"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "alice", "sasl_password": password}),
        )
    };
    let token = |secret: String| {
        options(json!({
            "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_url": broker.tokens.token_url(),
            "sasl_oauth_client_id": "relay-client", "sasl_oauth_client_secret": secret,
        }))
    };
    let case = |name, options, ends| Case {
        name,
        connector: "kafka",
        directions: &["out", "in"],
        place: Some("topic"),
        options,
        ends,
    };
    let cases = vec![
        case(
            "kafka_password",
            login(broker.secret(SecuredKafka::PASSWORD)),
            Ends::Running,
        ),
        case(
            "kafka_password_wrong",
            login(secrets.file(&Secrets::invent("wrong"))),
            Ends::Failing("refuses the login"),
        ),
        case(
            "kafka_token",
            token(broker.secret(SecuredKafka::CLIENT_SECRET)),
            Ends::Running,
        ),
        case(
            "kafka_token_wrong",
            token(secrets.environment(&Secrets::invent("wrong"))),
            Ends::Failing("token"),
        ),
    ];
    (broker, cases)
}
