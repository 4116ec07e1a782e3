//! A Kafka broker with a listener for each way in, and access rules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::process::Command;
use tokio::sync::Mutex;

use crate::certs::{Authority, Certificate};
use crate::relay::free_address;
use crate::token_server::TokenServer;
use crate::{OwnBed, unique};

/// How a port of the broker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// TLS; whoever comes is ANONYMOUS, who may do everything.
    Tls,
    /// TLS with a client certificate, whose common name is the user.
    MutualTls,
    /// SASL without TLS.
    Sasl,
    /// SASL over TLS.
    SaslTls,
}

impl Listener {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Tls, "TLS", "SSL"),
        (Self::MutualTls, "MUTUAL", "SSL"),
        (Self::Sasl, "SASL", "SASL_PLAINTEXT"),
        (Self::SaslTls, "SASLTLS", "SASL_SSL"),
    ];
}

/// See the module's description. Users: `alice` by PLAIN, SCRAM and
/// certificate, `bob` by PLAIN and certificate, `relay-client` by token. All
/// but `bob` may use every topic.
#[derive(Debug)]
pub struct SecuredKafka {
    bed: OwnBed,
    ports: BTreeMap<Listener, u16>,
    folder: PathBuf,
    /// Who signed the broker's certificate.
    pub ca: PathBuf,
    /// An authority that nobody trusts.
    pub strange_ca: PathBuf,
    /// A certificate of `alice`.
    pub alice: Certificate,
    /// The same of `bob`.
    pub bob: Certificate,
    /// A client whom the broker does not trust.
    pub stranger: Certificate,
    /// Grants tokens to `relay-client` with the secret [`Self::CLIENT_SECRET`].
    pub tokens: TokenServer,
}

static SHARED: Mutex<Weak<SecuredKafka>> = Mutex::const_new(Weak::new());

impl SecuredKafka {
    /// The password of `alice` and `bob`.
    pub const PASSWORD: &'static str = "open-sesame-71";
    /// The secret of `relay-client`.
    pub const CLIENT_SECRET: &'static str = "client-secret-83";

    /// The broker that the tests of a program share; it ends with the last of
    /// those that use it.
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(kafka) = shared.upgrade() {
            return kafka;
        }
        let kafka = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&kafka);
        kafka
    }

    async fn start() -> Self {
        let folder = std::env::temp_dir().join(unique("tide-kafka-secured"));
        let authority = Authority::new(&folder, "authority");
        let strange = Authority::new(&folder.join("strange"), "strange");
        // For this name alone: 127.0.0.1 is the same broker by another one.
        let broker = authority.issue("broker", &["localhost"]);
        let tokens = TokenServer::start("relay-client", Self::CLIENT_SECRET);
        let ports: BTreeMap<Listener, u16> = Listener::ALL
            .iter()
            .map(|(listener, ..)| (*listener, free_address().port()))
            .collect();
        let properties = folder.join("server.properties");
        std::fs::write(&properties, properties_of(&authority, &broker, &tokens)).unwrap();
        let listeners = Listener::ALL
            .iter()
            .map(|(listener, name, _)| format!("{name}://127.0.0.1:{}", ports[listener]))
            .collect::<Vec<_>>()
            .join(",");
        let java = format!(
            "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}",
            tokens.jwks_url()
        );
        let bed = OwnBed::up(
            "kafka-secured",
            &["kafka"],
            &[
                ("TIDE_BED_KAFKA_LISTENERS", &listeners),
                ("TIDE_BED_KAFKA_PROPERTIES", properties.to_str().unwrap()),
                ("TIDE_BED_KAFKA_JAVA", &java),
            ],
        )
        .await;
        let kafka = Self {
            ca: authority.ca.clone(),
            strange_ca: strange.ca.clone(),
            alice: authority.issue("alice", &[]),
            bob: authority.issue("bob", &[]),
            stranger: strange.issue("stranger", &[]),
            bed,
            ports,
            folder,
            tokens,
        };
        let rules = [
            "--add",
            "--allow-principal",
            "User:alice",
            "--allow-principal",
            "User:relay-client",
            "--operation",
            "All",
            "--topic",
            "*",
            "--transactional-id",
            "*",
        ];
        tokio::join!(
            async {
                // The tool changes one at a time.
                kafka.set_password("alice", "SCRAM-SHA-256", Self::PASSWORD).await;
                kafka.set_password("alice", "SCRAM-SHA-512", Self::PASSWORD).await;
            },
            kafka.tool("kafka-acls", &rules)
        );
        kafka
    }

    /// `localhost:PORT` of a listener: the name in its certificate.
    pub fn address(&self, listener: Listener) -> String {
        format!("localhost:{}", self.ports[&listener])
    }

    /// The same broker by a name that its certificate does not have.
    pub fn misnamed(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", self.ports[&listener])
    }

    /// The listener without any security, for the test's own eyes.
    pub fn open(&self) -> &str {
        &self.bed.addresses.kafka
    }

    /// A file with a text in it, as an option refers to it.
    pub fn secret(&self, text: &str) -> String {
        let path = self.folder.join(unique("secret"));
        std::fs::write(&path, text).unwrap();
        reference(&path)
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives a user a password for a mechanism of SCRAM.
    pub async fn set_password(&self, user: &str, mechanism: &str, password: &str) {
        let credentials = format!("{mechanism}=[password={password}]");
        let arguments = [
            "--alter",
            "--add-config",
            &credentials,
            "--entity-type",
            "users",
            "--entity-name",
            user,
        ];
        self.tool("kafka-configs", &arguments).await;
    }

    /// Allows a user an operation on a resource such as `--topic NAME`.
    pub async fn allow(&self, user: &str, operation: &str, resource: [&str; 2]) {
        let principal = format!("User:{user}");
        let rule = [
            "--add",
            "--allow-principal",
            &principal,
            "--operation",
            operation,
            resource[0],
            resource[1],
        ];
        self.tool("kafka-acls", &rule).await;
    }

    async fn tool(&self, name: &str, arguments: &[&str]) {
        let output = Command::new(name)
            .args(["--bootstrap-server", self.open()])
            .args(arguments)
            .output()
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
    }
}

impl Drop for SecuredKafka {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `${file:PATH}`.
pub fn reference(path: &Path) -> String {
    format!("${{file:{}}}", path.display())
}

fn properties_of(authority: &Authority, broker: &Certificate, tokens: &TokenServer) -> String {
    let keystore = authority.ca.with_file_name("broker.pem");
    let both = [&broker.key, &broker.cert].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(&keystore, both.concat()).unwrap();
    let map = Listener::ALL
        .map(|(_, name, protocol)| format!("{name}:{protocol}"))
        .join(",");
    let mut lines = vec![format!(
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{map}
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
",
        keystore = keystore.display(),
        ca = authority.ca.display(),
    )];
    let password = SecuredKafka::PASSWORD;
    for listener in ["sasl", "sasltls"] {
        let login = format!("listener.name.{listener}");
        // The other listener lacks one mechanism, to see what is told then.
        if listener == "sasl" {
            lines.push(format!(
                "{login}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n"
            ));
        }
        lines.push(format!(
            "{login}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice=\"{password}\" user_bob=\"{password}\";
{login}.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
{login}.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
{login}.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
{login}.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
{login}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={jwks}
{login}.oauthbearer.sasl.oauthbearer.expected.audience=kafka
{login}.oauthbearer.sasl.oauthbearer.expected.issuer=bed
",
            jwks = tokens.jwks_url(),
        ));
    }
    lines.push(format!(
        "sasl.oauthbearer.jwks.endpoint.url={}\nsasl.oauthbearer.expected.audience=kafka\nsasl.oauthbearer.expected.issuer=bed\n",
        tokens.jwks_url()
    ));
    lines.concat()
}
