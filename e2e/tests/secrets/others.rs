//! Webhooks both ways, and inboxes of other databases.

use pg_tide_e2e::{Bed, Database, Post, Receiver, Relay, unique};
use serde_json::{Value, json};

use super::{Case, Ends, Secrets};

/// Requests are posted to the pipeline of this case.
const NAME: &str = "webhook";

/// A receiver, pipelines that post to it with secrets, and pipelines whose
/// senders have secrets.
pub(super) async fn webhooks(secrets: &mut Secrets) -> (Receiver, Vec<Case>) {
    let receiver = Receiver::start().await;
    let case = |name, directions, options, ends| Case {
        name,
        connector: "webhook",
        directions,
        place: None,
        options,
        ends,
    };
    let out = |more: Value| {
        let mut options =
            json!({"url": format!("http://{}/hook", receiver.address()), "allow_private": true});
        let object = options.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        options
    };
    let secret_url = format!("http://{}/{}", receiver.address(), Secrets::invent("path"));
    secrets
        .values
        .push(secret_url.rsplit('/').next().unwrap().to_owned());
    let url = secrets.file(&secret_url);
    let gone = secrets.environment(&format!("http://127.0.0.1:1/{}", Secrets::invent("path")));
    secrets.signing = Secrets::invent("new");
    let signing = secrets.signing.clone();
    let cases = vec![
        case(
            "webhook_signed",
            &["out"],
            out(json!({
                "signing_secret": secrets.file(&Secrets::invent("signing")),
                "headers": {"Authorization": secrets.environment(&Secrets::invent("bearer"))},
            })),
            Ends::Running,
        ),
        case("webhook_url", &["out"], out(json!({"url": url})), Ends::Running),
        case(
            "webhook_gone",
            &["out"],
            out(json!({"url": gone})),
            Ends::Failing("cannot connect"),
        ),
        case(
            "webhook_torn",
            &["out"],
            out(json!({"signing_secret": secrets.file(&format!("whsec_{}!", Secrets::invent("torn")))})),
            Ends::Failing("no base64"),
        ),
        case(
            NAME,
            &["in"],
            json!({"signing_secret": [
                secrets.file(&Secrets::invent("old")), secrets.environment(&signing),
            ]}),
            Ends::Running,
        ),
        case(
            "webhook_torn",
            &["in"],
            json!({"signing_secret": secrets.file(&format!("whsec_{}!", Secrets::invent("torn")))}),
            Ends::Failing("no base64"),
        ),
    ];
    (receiver, cases)
}

/// Posts what is signed well and what is not, with secrets in its headers.
pub(super) async fn post(secrets: &mut Secrets, relay: &Relay) {
    for (key, status) in [(secrets.signing.clone(), 200), (Secrets::invent("another"), 401)] {
        let (bearer, cookie) = (Secrets::invent("bearer"), Secrets::invent("cookie"));
        let post = Post::to(&format!("{NAME}_in"), r#"{"n": 1}"#)
            .header("authorization", &format!("Bearer {bearer}"))
            .header("cookie", &cookie)
            .header("x-api-key", &cookie)
            .signed(&unique("message"), &[&key]);
        for value in [bearer, cookie, key] {
            secrets.note(&value);
        }
        let reply = post.send(relay.webhooks()).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
        secrets.assert_not_in("an answer", &format!("{reply:?}"));
    }
}

/// A database with an inbox, and pipelines into it by a password.
pub(super) async fn inboxes(secrets: &mut Secrets, bed: &Bed) -> (Database, Vec<Case>) {
    let target = Database::fresh(&bed.postgres, "secrets_target").await;
    let (role, password) = (unique("secrets_feeder"), Secrets::invent("feeder"));
    target
        .run(&format!(
            "SELECT tide.inbox_create('events');
             CREATE ROLE {role} LOGIN PASSWORD '{password}'; SELECT tide.inbox_grant_feed('events', '{role}')"
        ))
        .await;
    // So that the server does not show that statement as the session's last.
    target.run("SELECT 1").await;
    let url = target.url();
    let (_, place) = url.split_once('@').unwrap();
    let case = |name, options, ends| Case {
        name,
        connector: "inbox",
        directions: &["out"],
        place: None,
        options,
        ends,
    };
    let plain = format!("postgres://{role}@{place}");
    let whole = format!("postgres://{role}:{password}@{place}");
    secrets.values.push(password.clone());
    let cases = vec![
        case(
            "inbox_password",
            json!({"inbox": "events", "url": plain, "password": secrets.file(&password)}),
            Ends::Running,
        ),
        case(
            "inbox_url",
            json!({"inbox": "events", "url": secrets.environment(&whole)}),
            Ends::Running,
        ),
        case(
            "inbox_wrong",
            json!({"inbox": "events", "url": plain, "password": secrets.file(&Secrets::invent("wrong"))}),
            Ends::Failing("password authentication failed"),
        ),
    ];
    (target, cases)
}
