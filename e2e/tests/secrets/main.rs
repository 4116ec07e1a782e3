//! No secret that a relay is given is ever in its log, on its pages, or in
//! SQL, whether it is right or wrong, and whatever is logged.
//!
//! A connector joins by a function that gives its [`Case`]s: pipelines, the
//! secrets that they use, and how each is to end up. Everything else is common.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod kafka;
mod nats;
mod others;

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pg_tide_e2e::{Bed, Database, RelayOptions, SecretFiles, run_pg_tide, unique};
use serde_json::{Value, json};

/// Everything is logged, which takes its time.
const SOON: Duration = Duration::from_mins(1);

/// What becomes of a pipeline.
enum Ends {
    Running,
    /// With an error that has these words.
    Failing(&'static str),
}

/// Pipelines with the same connection: `out`, `in`, or one in each direction.
struct Case {
    name: &'static str,
    connector: &'static str,
    directions: &'static [&'static str],
    /// The option that says where messages are; each case has a place of its own.
    place: Option<&'static str>,
    /// The other options, of the connection and of all directions.
    options: Value,
    ends: Ends,
}

/// Everything secret, and what must live as long as it is used.
#[derive(Default)]
struct Secrets {
    values: Vec<String>,
    environment: Vec<(String, String)>,
    mounted: Vec<SecretFiles>,
    /// What the senders of webhooks sign with.
    signing: String,
}

impl Secrets {
    /// Keeps a secret in a file; returns the reference to it.
    fn file(&mut self, value: &str) -> String {
        self.note(value);
        let files = SecretFiles::mount(&[("secret", value)]);
        let reference = files.reference("secret");
        self.mounted.push(files);
        reference
    }

    /// Keeps a secret in the relay's environment.
    fn environment(&mut self, value: &str) -> String {
        self.note(value);
        let name = format!("SECRET_{}", self.environment.len());
        self.environment.push((name.clone(), value.to_owned()));
        format!("${{env:{name}}}")
    }

    /// A text of several lines is secret line by line, but for its frame.
    fn note(&mut self, value: &str) {
        let lines = value
            .lines()
            .filter(|l| l.len() >= 12 && !l.contains(['-', '*', ' ']));
        self.values.extend(lines.map(str::to_owned));
    }

    /// A new secret that looks like nothing else.
    fn invent(stem: &str) -> String {
        format!("{stem}SECRET{}", unique("").replace('_', ""))
    }

    /// Fails when a secret is in the text, as it is or in base64.
    fn assert_not_in(&self, place: &str, text: &str) {
        for secret in &self.values {
            let encoded = STANDARD_NO_PAD.encode(secret);
            // The beginning and end of the encoding depend on what is around.
            let middle = &encoded[4..encoded.len() - 4];
            for form in [secret.as_str(), middle] {
                if let Some(line) = text.lines().find(|line| line.contains(form)) {
                    panic!("{place} has the secret {secret}: {line}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "the place has the secret")]
fn a_secret_in_base64_is_found() {
    let mut secrets = Secrets::default();
    secrets.note("correct-horse-battery".replace('-', "").as_str());
    let text = format!("nothing\nBasic {}", STANDARD_NO_PAD.encode("correcthorsebattery"));
    secrets.assert_not_in("the place", &text);
}

/// Configures the pipelines of a case.
async fn configure(db: &Database, case: &Case) {
    let literal = |value: &Value| value.to_string().replace('\'', "''");
    let mut options = case.options.clone();
    if let Some(place) = case.place {
        options[place] = unique(case.name).into();
    }
    options["retry"] = json!({"initial": "1s"});
    let (name, connector, options) = (case.name, case.connector, literal(&options));
    for direction in case.directions {
        let set = match *direction {
            "out" => format!("relay_set_outbox('{name}_out', 'events', '{connector}', '{options}')"),
            _ => format!("relay_set_inbox('{name}_in', 'calls', '{options}', p_source := '{connector}')"),
        };
        db.run(&format!("SELECT tide.{set}")).await;
    }
}

/// The text of every row of every relation of the schema, and of what the
/// server shows of its sessions.
async fn everything_in_sql(db: &Database) -> String {
    let relations = db
        .text(
            "SELECT c.oid::regclass FROM pg_class c
              WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1",
        )
        .await;
    let mut all = String::new();
    let mut tables = 0;
    for relation in relations.lines() {
        let rows = db.text(&format!("SELECT t::text FROM {relation} t")).await;
        writeln!(all, "{relation}\n{rows}").unwrap();
        tables += 1;
    }
    assert!(tables > 20, "{relations}");
    all + &db.text("SELECT a::text FROM pg_stat_activity a").await
        + &db.text("SELECT c::text FROM tide.relay_list_configs() c").await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere() {
    let bed = Bed::from_env();
    let mut secrets = Secrets::default();
    let (_nats, mut cases) = nats::nats(&mut secrets).await;
    let (_kafka, of_kafka) = kafka::kafka(&mut secrets).await;
    cases.extend(of_kafka);
    let (_receiver, of_webhooks) = others::webhooks(&mut secrets).await;
    cases.extend(of_webhooks);
    let (_target, of_inboxes) = others::inboxes(&mut secrets, &bed).await;
    cases.extend(of_inboxes);
    let db = Database::fresh(&bed.postgres, "secrets").await;
    db.create_outboxes(&["events"]).await;
    db.run("SELECT tide.inbox_create('calls')").await;

    // PostgreSQL's own password: right, and wrong.
    let (role, password) = (unique("secrets_relay"), Secrets::invent("postgres"));
    let wrong = Secrets::invent("wrong");
    secrets.note(&password);
    secrets.note(&wrong);
    db.run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE tide_relay"
    ))
    .await;
    let url = |password: &str| {
        let (_, place) = db
            .url()
            .split_once('@')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        format!("postgres://{role}:{password}@{place}")
    };

    for case in &cases {
        configure(&db, case).await;
    }
    let environment = secrets.environment.clone();
    for format in ["text", "json"] {
        // All that anybody logs, client libraries included.
        let filter = "debug,pg_tide=trace,async_nats=trace,rustls=trace,tokio_postgres=trace";
        let relay = |url: &str| {
            let options =
                RelayOptions::for_url(url).arguments(&["--log-format", format, "--log-level", filter]);
            environment
                .iter()
                .fold(options, |options, (name, value)| options.environment(name, value))
        };
        let running = relay(&url(&password)).webhooks().start().await;
        let refused = relay(&url(&wrong)).spawn();
        db.publish_numbers("events", 1, 5, 1).await;
        for case in &cases {
            for direction in case.directions {
                let pipeline = format!("{}_{direction}", case.name);
                match case.ends {
                    Ends::Running => db.await_running(SOON, &pipeline).await,
                    Ends::Failing(words) => {
                        db.await_error(SOON, &pipeline, &[words]).await;
                        running.await_log(SOON, &[&pipeline, words]).await;
                    }
                }
            }
        }
        refused.await_log(SOON, &["password authentication failed"]).await;
        others::post(&mut secrets, &running).await;

        for (name, relay) in [("the relay", &running), ("the refused relay", &refused)] {
            secrets.assert_not_in(&format!("the {format} log of {name}"), &relay.log());
        }
        for page in ["/metrics", "/readyz", "/livez"] {
            secrets.assert_not_in(page, &running.page(page).await.1);
        }
        let sql = everything_in_sql(&db).await;
        assert!(
            sql.contains("${file:") && sql.contains("refuses the token"),
            "{sql}"
        );
        secrets.assert_not_in("SQL", &sql);
        let status = run_pg_tide(&["status", "--postgres-url", &db.url()]).await;
        assert!(status.status.success(), "{status:?}");
        secrets.assert_not_in("pg-tide status", &format!("{status:?}"));
    }
    db.run(&format!("DROP ROLE {role}")).await;
}
