//! Keys and JWTs of a NATS operator, its accounts and users, and the server's
//! configuration that trusts them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account for applications and one for the system.
pub struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    /// New keys for all.
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        Self {
            key: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
        }
    }

    /// What the server's configuration needs to trust this operator.
    pub fn server_config(&self) -> String {
        let operator = sign(
            &self.key,
            &self.key.public_key(),
            "operator",
            &json!({
                "type": "operator", "version": 2, "system_account": self.system.public_key(),
            }),
            None,
        );
        let account = |key: &KeyPair, name: &str, jetstream: i64| {
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1, "mem_storage": jetstream, "disk_storage": jetstream,
                "streams": jetstream, "consumer": jetstream,
            });
            let claims = json!({
                "limits": limits, "default_permissions": {"pub": {}, "sub": {}}, "type": "account", "version": 2,
            });
            sign(&self.key, &key.public_key(), name, &claims, None)
        };
        format!(
            "operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{\n  {app}: {app_jwt}\n  {system}: {system_jwt}\n}}\n",
            system = self.system.public_key(),
            app = self.account.public_key(),
            app_jwt = account(&self.account, "app", -1),
            system_jwt = account(&self.system, "system", 0),
        )
    }

    /// The content of a .creds file of a new user, and the user's public key.
    pub fn credentials(&self, name: &str, lifetime: Option<Duration>) -> (String, String) {
        let user = KeyPair::new_user();
        let claims = json!({
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2,
        });
        let jwt = sign(&self.account, &user.public_key(), name, &claims, lifetime);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        (text, user.public_key())
    }
}

fn sign(issuer: &KeyPair, subject: &str, name: &str, nats: &Value, lifetime: Option<Duration>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut claims = json!({
        "jti": format!("{subject}{}", now.as_nanos()), "iat": now.as_secs(), "iss": issuer.public_key(),
        "name": name, "sub": subject, "nats": nats,
    });
    if let Some(lifetime) = lifetime {
        claims["exp"] = (now + lifetime).as_secs().into();
    }
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
