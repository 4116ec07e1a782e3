//! TLS and authentication with PostgreSQL: what is let in, and what a person
//! reads who is not. On servers of their own with certificates made here.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_tide_e2e::certs::{Authority, Certificate};
use pg_tide_e2e::nats::Nats;
use pg_tide_e2e::{
    Bed, Database, OwnBed, RelayOptions, assert_each_once, await_condition, numbers, run_pg_tide,
    run_pg_tide_in, unique,
};

const SOON: Duration = Duration::from_secs(15);

/// Each role is let in in one way only.
const HBA: &str = "
host      all  tide,postgres        127.0.0.1/32  scram-sha-256
hostssl   all  encrypted,unbound    127.0.0.1/32  scram-sha-256
hostssl   all  old_hash             127.0.0.1/32  md5
hostnossl all  plain                127.0.0.1/32  scram-sha-256
hostssl   all  certified            127.0.0.1/32  scram-sha-256 clientcert=verify-ca
hostssl   all  by_certificate       127.0.0.1/32  cert
host      all  nobody_made          127.0.0.1/32  trust
";

/// A server with TLS whose certificate is for `db.example`.
struct Scene {
    own: OwnBed,
    db: Database,
    files: PathBuf,
    ca: Authority,
    other_ca: Authority,
}

impl Scene {
    async fn up(name: &str) -> Self {
        let files = std::env::temp_dir().join(unique(name));
        let ca = Authority::new(&files, "authority");
        let other_ca = Authority::new(&files.join("other"), "other-authority");
        serve(&files, &ca.issue("server", &["db.example"]), &ca);
        std::fs::write(files.join("pg_hba.conf"), HBA).unwrap();
        let settings = settings(&files);
        let own = OwnBed::up(name, &["postgres"], &as_strs(&settings)).await;
        let db = Database::fresh(&own.addresses.postgres, "tls").await;
        for role in ["encrypted", "plain", "certified", "by_certificate"] {
            db.run(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'open-sesame'; GRANT tide_relay TO {role}"
            ))
            .await;
        }
        db.run("SET password_encryption = 'md5'; CREATE ROLE old_hash LOGIN PASSWORD 'open-sesame'; GRANT tide_relay TO old_hash; RESET password_encryption")
            .await;
        Self {
            own,
            db,
            files,
            ca,
            other_ca,
        }
    }

    /// Another certificate from now on.
    async fn serve(&self, certificate: &Certificate) {
        serve(&self.files, certificate, &self.ca);
        self.own.stop("postgres").await;
        self.own
            .start_with("postgres", &as_strs(&settings(&self.files)))
            .await;
    }

    fn port(&self) -> &str {
        let url = &self.own.addresses.postgres;
        url.rsplit(':').next().unwrap().split('/').next().unwrap()
    }

    fn pairs(&self, role: &str, more: &str) -> String {
        let name = self.db.name();
        format!(
            "host=db.example hostaddr=127.0.0.1 port={} dbname={name} user={role} password=open-sesame {more}",
            self.port()
        )
    }

    /// What `pg-tide schema status` says to a role that connects so.
    async fn said(&self, role: &str, more: &str) -> Result<String, String> {
        said(&[], &self.pairs(role, more)).await
    }

    async fn let_in(&self, role: &str, more: &str) {
        if let Err(refusal) = self.said(role, more).await {
            panic!("{role} is not let in with {more}: {refusal}");
        }
    }

    async fn refused(&self, role: &str, more: &str, wanted: &[&str]) {
        let refusal = match self.said(role, more).await {
            Ok(answer) => panic!("{role} is let in with {more}: {answer}"),
            Err(refusal) => refusal,
        };
        for text in wanted {
            assert!(
                refusal.contains(text),
                "{role} with {more}: no \"{text}\" in: {refusal}"
            );
        }
        assert!(!refusal.contains("open-sesame"), "{refusal}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.files);
    }
}

async fn said(environment: &[(&str, &str)], url: &str) -> Result<String, String> {
    let output = run_pg_tide_in(environment, &["schema", "status", "--postgres-url", url]).await;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

fn serve(files: &Path, certificate: &Certificate, clients: &Authority) {
    for (from, to) in [
        (&certificate.cert, "server.crt"),
        (&certificate.key, "server.key"),
        (&clients.ca, "ca.crt"),
    ] {
        if from != &files.join(to) {
            std::fs::copy(from, files.join(to)).unwrap();
        }
    }
}

fn settings(files: &Path) -> [(String, String); 2] {
    [
        ("TIDE_BED_POSTGRES_TLS".into(), files.display().to_string()),
        (
            "TIDE_BED_POSTGRES_HBA".into(),
            files.join("pg_hba.conf").display().to_string(),
        ),
    ]
}

fn as_strs(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

fn root(file: &Path) -> String {
    format!("sslrootcert={}", file.display())
}

fn identity(certificate: &Certificate) -> String {
    format!(
        "sslcert={} sslkey={}",
        certificate.cert.display(),
        certificate.key.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_does_what_libpq_does() {
    let s = Scene::up("tls-modes").await;
    let (ca, other) = (root(&s.ca.ca), root(&s.other_ca.ca));

    // The role is let in by TLS alone, so being let in proves it.
    for mode in ["allow", "prefer", "require"] {
        s.let_in("encrypted", &format!("sslmode={mode}")).await;
    }
    s.let_in("encrypted", "").await;
    s.refused(
        "encrypted",
        "sslmode=disable",
        &[
            "no pg_hba.conf entry",
            "no encryption",
            "let a line of pg_hba.conf match",
        ],
    )
    .await;
    // And this one without it alone.
    for mode in ["disable", "allow", "prefer"] {
        s.let_in("plain", &format!("sslmode={mode}")).await;
    }
    s.refused(
        "plain",
        "sslmode=require",
        &["no pg_hba.conf entry", "SSL encryption"],
    )
    .await;

    for mode in ["require", "verify-ca", "verify-full"] {
        s.let_in("encrypted", &format!("sslmode={mode} {ca}")).await;
        s.refused(
            "encrypted",
            &format!("sslmode={mode} {other}"),
            &[
                "not signed by a trusted authority",
                "give the certificate of the authority",
                "sslrootcert",
            ],
        )
        .await;
    }
    // TLS from the first byte, and one version of it.
    s.let_in(
        "encrypted",
        &format!("sslmode=verify-full {ca} sslnegotiation=direct"),
    )
    .await;
    for version in ["TLSv1.2", "TLSv1.3"] {
        s.let_in(
            "encrypted",
            &format!("sslmode=require ssl_min_protocol_version={version} ssl_max_protocol_version={version}"),
        )
        .await;
    }

    // The server's name.
    let by_address = |mode: &str| {
        s.pairs("encrypted", &format!("sslmode={mode} {ca}"))
            .replace("host=db.example ", "")
    };
    said(&[], &by_address("verify-ca")).await.unwrap();
    let refusal = said(&[], &by_address("verify-full")).await.unwrap_err();
    for text in [
        "wrong host name",
        "127.0.0.1",
        "db.example",
        "alternative names",
        "sslmode=verify-ca",
    ] {
        assert!(refusal.contains(text), "no \"{text}\" in: {refusal}");
    }

    // The system's authorities.
    let system = s.pairs("encrypted", "sslrootcert=system");
    let refusal = said(&[], &system).await.unwrap_err();
    assert!(refusal.contains("not signed by a trusted authority"), "{refusal}");
    let file = s.ca.ca.to_str().unwrap();
    for more in ["sslrootcert=system", "sslmode=verify-full"] {
        said(&[("SSL_CERT_FILE", file)], &s.pairs("encrypted", more))
            .await
            .unwrap();
    }

    // Flags stand above the URL; the URL form says the same as pairs.
    let url = format!(
        "postgresql://encrypted:open-sesame@db.example:{}/{}?hostaddr=127.0.0.1&sslmode=disable",
        s.port(),
        s.db.name()
    );
    let output = run_pg_tide(&[
        "schema",
        "status",
        "--postgres-url",
        &url,
        "--postgres-sslmode",
        "verify-full",
        "--postgres-sslrootcert",
        file,
    ])
    .await;
    assert!(output.status.success(), "{output:?}");

    // Files that are not what they should be.
    let key = s.ca.issue("somebody", &[]).key;
    s.refused(
        "encrypted",
        "sslmode=verify-full sslrootcert=/no/such.crt",
        &["cannot read sslrootcert /no/such.crt"],
    )
    .await;
    s.refused(
        "encrypted",
        &format!("sslmode=verify-full {}", root(&key)),
        &["no certificate in PEM form"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_certificates_of_the_server() {
    let s = Scene::up("tls-server").await;
    let full = format!("sslmode=verify-full {}", root(&s.ca.ca));
    s.serve(&s.ca.issue_expired("expired", &["db.example"])).await;
    s.refused(
        "encrypted",
        &full,
        &["expired", "renew the server's certificate", "clocks"],
    )
    .await;
    s.let_in("encrypted", "sslmode=require").await;

    // Self-signed, and named as its own authority: as PostgreSQL's manual has it.
    let own = Certificate::self_signed(&s.files, "self", &["db.example"]);
    s.serve(&own).await;
    s.refused(
        "encrypted",
        &full,
        &["signed itself and is not among", "sslrootcert"],
    )
    .await;
    let pinned = root(&own.cert);
    s.let_in("encrypted", &format!("sslmode=verify-full {pinned}"))
        .await;
    let elsewhere = s.pairs("encrypted", &format!("sslmode=verify-full {pinned}"));
    let refusal = said(&[], &elsewhere.replace("host=db.example ", ""))
        .await
        .unwrap_err();
    assert!(refusal.contains("wrong host name"), "{refusal}");

    // Renewed, for a host of another name, while a relay runs.
    s.serve(&s.ca.issue("renamed", &["other.example"])).await;
    s.refused("encrypted", &full, &["wrong host name", "other.example"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() {
    let s = Scene::up("tls-client").await;
    let ours = s.ca.issue("by_certificate", &[]);
    let strangers = s.other_ca.issue("by_certificate", &[]);
    let ca = format!("sslmode=verify-full {}", root(&s.ca.ca));
    s.let_in("certified", &format!("{ca} {}", identity(&ours))).await;
    s.let_in("by_certificate", &format!("{ca} {}", identity(&ours)))
        .await;
    let advice = "give sslcert and sslkey";
    s.refused("certified", &ca, &["requires a valid client certificate", advice])
        .await;
    s.refused(
        "by_certificate",
        &ca,
        &["requires a valid client certificate", advice],
    )
    .await;
    for role in ["certified", "by_certificate"] {
        s.refused(
            role,
            &format!("{ca} {}", identity(&strangers)),
            &["client certificate", advice],
        )
        .await;
    }
    // Of another role.
    let another = s.ca.issue("another", &[]);
    s.refused(
        "by_certificate",
        &format!("{ca} {}", identity(&another)),
        &[
            "certificate authentication failed for user \"by_certificate\"",
            advice,
        ],
    )
    .await;
    // With a certificate the password still counts.
    let wrong = s
        .pairs("certified", &format!("{ca} {}", identity(&ours)))
        .replace("open-sesame", "hunter2");
    let refusal = said(&[], &wrong).await.unwrap_err();
    assert!(refusal.contains("password authentication failed"), "{refusal}");
    let mixed = Certificate {
        cert: ours.cert.clone(),
        key: another.key.clone(),
    };
    s.refused(
        "certified",
        &format!("{ca} {}", identity(&mixed)),
        &["do not fit together"],
    )
    .await;
    s.refused(
        "certified",
        &format!("{ca} sslcert={} sslkey=/no/such.key", ours.cert.display()),
        &["cannot read sslkey /no/such.key"],
    )
    .await;
    s.refused(
        "certified",
        &format!("{ca} sslcert={}", ours.cert.display()),
        &["without sslkey"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channel_binding_and_who_is_let_in() {
    let s = Scene::up("tls-roles").await;
    // Required, it is done, and not given up for going without TLS; the server does not let it pass when it is wrong.
    s.let_in("encrypted", "channel_binding=require sslmode=require")
        .await;
    s.let_in("encrypted", "channel_binding=disable sslmode=require")
        .await;
    s.refused(
        "plain",
        "channel_binding=require",
        &["no pg_hba.conf entry", "SSL encryption"],
    )
    .await;
    s.let_in("old_hash", "").await;
    s.refused(
        "old_hash",
        "channel_binding=require",
        &["did not use channel binding", "scram-sha-256"],
    )
    .await;

    let wrong = s
        .pairs("encrypted", "sslmode=require")
        .replace("open-sesame", "hunter2");
    let refusal = said(&[], &wrong).await.unwrap_err();
    for text in [
        "password authentication failed for user \"encrypted\"",
        "check user name and password",
    ] {
        assert!(refusal.contains(text), "{refusal}");
    }
    assert!(!refusal.contains("hunter2"), "{refusal}");
    let missing = s.pairs("encrypted", "").replace("password=open-sesame", "");
    let refusal = said(&[], &missing).await.unwrap_err();
    assert!(
        refusal.contains("asks for a password, and there is none"),
        "{refusal}"
    );
    // Not made, but named in a line: PostgreSQL hides it as a wrong password.
    s.refused(
        "unbound",
        "",
        &[
            "password authentication failed for user \"unbound\"",
            "a role that does not exist",
        ],
    )
    .await;
    s.refused(
        "nobody_made",
        "",
        &["role \"nobody_made\" does not exist", "create the role"],
    )
    .await;
    s.refused(
        "unlisted",
        "",
        &[
            "no pg_hba.conf entry",
            "\"unlisted\"",
            "let a line of pg_hba.conf match",
        ],
    )
    .await;
    let name = s.db.name();
    let elsewhere = s.pairs("encrypted", "").replace(name, "no_such_database");
    let refusal = said(&[], &elsewhere).await.unwrap_err();
    for text in [
        "database \"no_such_database\" does not exist",
        "create the database",
    ] {
        assert!(refusal.contains(text), "{refusal}");
    }
    s.db.run(&format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"))
        .await;
    s.refused(
        "encrypted",
        "",
        &["permission denied for database", "GRANT CONNECT"],
    )
    .await;
    s.db.run(&format!(
        "ALTER DATABASE {name} CONNECTION LIMIT 0; GRANT CONNECT ON DATABASE {name} TO PUBLIC"
    ))
    .await;
    s.refused(
        "encrypted",
        "",
        &["too many connections for database", "raise max_connections"],
    )
    .await;
}

/// Everything at once, through a change of all secrets.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_delivers_over_tls_and_takes_new_secrets_without_restart() {
    let s = Scene::up("tls-relay").await;
    let bed = Bed::from_env();
    let subject = unique("tls");
    let nats = Nats::connect(&bed.nats).await;
    nats.create_stream(&subject, &subject, |_| {}).await;
    s.db.create_outboxes(&["events"]).await;
    s.db.to_nats("out", "events", &bed.nats, &subject, "{}").await;
    let client = s.ca.issue("client", &[]);
    let url = |password: &str| {
        s.pairs(
            "certified",
            &format!(
                "sslmode=verify-full channel_binding=require {} {}",
                root(&s.ca.ca),
                identity(&client)
            ),
        )
        .replace("open-sesame", password)
    };
    let file = s.files.join("uri");

    // The file is not there yet, and then it is, with a wrong password.
    let mut relay = RelayOptions::for_url_file(&file).spawn();
    relay
        .await_log(SOON, &["cannot read its file", file.to_str().unwrap(), "retry"])
        .await;
    let (status, body) = relay.page("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("cannot read its file"), "{body}");
    std::fs::write(&file, url("hunter2")).unwrap();
    await_condition(SOON, "unready for the password", async || {
        let (status, body) = relay.page("/readyz").await;
        (status == 503 && body.contains("password authentication failed for user \"certified\""))
            .then_some(())
    })
    .await;
    std::fs::write(&file, url("open-sesame")).unwrap();
    relay.await_ready(SOON).await;
    s.db.publish_numbers("events", 1, 50, 10).await;
    s.db.await_delivered(SOON).await;
    assert_all_encrypted(&s.db).await;

    // New password, new authority, new certificates on both ends.
    let new_ca = Authority::new(&s.files.join("new"), "new-authority");
    let new_client = new_ca.issue("client", &[]);
    s.db.run("ALTER ROLE certified PASSWORD 'changed-sesame'").await;
    std::fs::write(&file, url("changed-sesame")).unwrap();
    for (from, to) in [
        (&new_ca.ca, &s.ca.ca),
        (&new_client.cert, &client.cert),
        (&new_client.key, &client.key),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    s.serve(&new_ca.issue("server", &["db.example"])).await;
    relay.await_log(SOON, &["no database session"]).await;
    s.db.publish_numbers("events", 51, 100, 10).await;
    s.db.await_delivered(SOON).await;
    relay.await_ready(SOON).await;
    assert_all_encrypted(&s.db).await;
    let messages = nats.messages(&subject).await;
    assert_each_once(&numbers(messages.iter().map(|m| m.payload.as_str())), 1..=100);
    let log = relay.log();
    for secret in ["hunter2", "open-sesame", "changed-sesame", "PRIVATE KEY"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

async fn assert_all_encrypted(db: &Database) {
    let admin = db.superuser().await;
    let row = admin
        .query_one(
            "SELECT count(*), count(*) FILTER (WHERE ssl AND version = 'TLSv1.3' AND usename = 'certified')
               FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
              WHERE application_name LIKE 'pg-tide%'",
            &[],
        )
        .await
        .unwrap();
    let (sessions, encrypted): (i64, i64) = (row.get(0), row.get(1));
    assert!(sessions > 1 && sessions == encrypted, "{encrypted} of {sessions}");
}
