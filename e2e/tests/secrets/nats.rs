//! NATS: every way of logging in, right and wrong.

use nkeys::KeyPair;
use pg_tide_e2e::certs::Authority;
use pg_tide_e2e::nats_auth::Operator;
use pg_tide_e2e::{OwnBed, unique};
use serde_json::{Value, json};

use super::{Case, Ends, Secrets};

/// Servers of NATS, each with another way of logging in, and pipelines with
/// the right secret and with a wrong one for each.
pub(super) async fn nats(secrets: &mut Secrets) -> (Vec<OwnBed>, Vec<Case>) {
    let folder = std::env::temp_dir().join(unique("secrets"));
    let authority = Authority::new(&folder, "ca");
    let [server, client] = ["server", "client"].map(|name| authority.issue(name, &["localhost"]));
    let key = KeyPair::new_user();
    let password = Secrets::invent("password");
    let users = OwnBed::nats(
        "secrets-users",
        &format!(
            "tls {{ cert_file: '{}', key_file: '{}', ca_file: '{}', verify: true }}
             authorization {{ users = [ {{user: shop, password: {password}}}, {{nkey: {}}} ] }}",
            server.cert.display(),
            server.key.display(),
            authority.ca.display(),
            key.public_key()
        ),
    )
    .await;
    let token = Secrets::invent("token");
    let tokens = OwnBed::nats("secrets-token", &format!("authorization {{ token: {token} }}")).await;
    let operator = Operator::new();
    let operated = OwnBed::nats("secrets-creds", &operator.server_config()).await;

    let read = |path| std::fs::read_to_string(path).unwrap();
    let certificate = read(&client.cert);
    let ca = read(&authority.ca);
    let private = secrets.file(&read(&client.key));
    std::fs::remove_dir_all(folder).unwrap();
    let tls_url = users.addresses.nats.replace("127.0.0.1", "localhost");
    let over_tls = |login: Value| {
        let mut options = json!({
            "url": tls_url, "tls_ca": ca, "tls_cert": certificate, "tls_key": private,
        });
        options
            .as_object_mut()
            .unwrap()
            .extend(login.as_object().unwrap().clone());
        options
    };
    let seed = |key: &KeyPair| key.seed().unwrap();
    let case = |name, options, ends| Case {
        name,
        connector: "nats",
        directions: &["out", "in"],
        place: Some("subject"),
        options,
        ends,
    };
    let cases = vec![
        case(
            "password",
            over_tls(json!({"user": "shop", "password": secrets.file(&password)})),
            Ends::Running,
        ),
        case(
            "password_wrong",
            over_tls(json!({"user": "shop", "password": secrets.environment(&Secrets::invent("wrong"))})),
            Ends::Failing("refuses the user"),
        ),
        case(
            "nkey",
            over_tls(json!({"nkey": secrets.environment(&seed(&key))})),
            Ends::Running,
        ),
        case(
            "nkey_wrong",
            over_tls(json!({"nkey": secrets.file(&seed(&KeyPair::new_user()))})),
            Ends::Failing("does not know the nkey"),
        ),
        case(
            "nkey_torn",
            over_tls(json!({"nkey": secrets.file(&seed(&KeyPair::new_user())[..40])})),
            Ends::Failing("holds no seed"),
        ),
        case(
            "key_torn",
            over_tls(json!({"tls_key": secrets.file(&Secrets::invent("key"))})),
            Ends::Failing("holds no private key"),
        ),
        case(
            "token",
            json!({"url": tokens.addresses.nats, "token": secrets.environment(&token)}),
            Ends::Running,
        ),
        case(
            "token_wrong",
            json!({"url": tokens.addresses.nats, "token": secrets.file(&Secrets::invent("wrong"))}),
            Ends::Failing("refuses the token"),
        ),
        case(
            "creds",
            json!({
                "url": operated.addresses.nats,
                "credentials": secrets.file(&operator.credentials("relay", None).0),
            }),
            Ends::Running,
        ),
        case(
            "creds_wrong",
            json!({
                "url": operated.addresses.nats,
                "credentials": secrets.environment(&Operator::new().credentials("other", None).0),
            }),
            Ends::Failing("refuses the credentials"),
        ),
    ];
    (vec![users, tokens, operated], cases)
}
