//! The PostgreSQL server: reached, of the right version, with the rights and
//! settings that a relay needs.

use std::collections::BTreeMap;

use super::finding::{Finding, count, some};
use crate::database::outbox::quote;
use crate::database::{Cause, DatabaseError};
use crate::human::age;

const SUBJECT: &str = "database";

/// PostgreSQL 14: the oldest that the schema supports.
const OLDEST: i32 = 140_000;
/// Connections that one relay opens at most, and one for a person.
const RELAY_CONNECTIONS: i64 = 12;
const CLOCK_SKEW: f64 = 2.0;

/// A failed connection.
pub(super) fn connection_refused(error: &DatabaseError) -> Finding {
    match error {
        DatabaseError::Url(_) => Finding::problem("database-url", SUBJECT, format!("{error}.")),
        DatabaseError::Connect { at, cause, reason } => {
            let message = format!(
                "Cannot connect to PostgreSQL at {at}: {}.",
                reason.trim_end_matches('.')
            );
            let finding = Finding::problem(code(*cause), SUBJECT, message);
            match cause.advice().trim_start_matches("; ") {
                "" => finding,
                advice => finding.hint(advice),
            }
        }
        DatabaseError::Statement { .. } => Finding::problem("database-failed", SUBJECT, format!("{error}.")),
    }
}

fn code(cause: Cause) -> &'static str {
    match cause {
        Cause::OwnFiles => "database-own-files",
        Cause::UnknownHost => "database-unknown-host",
        Cause::Refused | Cause::Unreachable | Cause::Silent | Cause::NotPostgres => "database-unreachable",
        Cause::NoTls | Cause::Handshake => "database-tls",
        Cause::UnknownAuthority => "database-tls-authority",
        Cause::ServerName => "database-tls-host-name",
        Cause::Expired => "database-tls-expired",
        Cause::ClientCertificate => "database-client-certificate",
        Cause::NoPassword | Cause::Password | Cause::Role => "database-password",
        Cause::ChannelBinding | Cause::Method => "database-authentication",
        Cause::NoEntry => "database-not-admitted",
        Cause::Database => "database-missing",
        Cause::NotUpYet => "database-starting",
        Cause::TooMany => "database-connections",
        Cause::Standby => "database-standby",
        Cause::Pooler => "pooler-transaction-mode",
        Cause::Other => "database-failed",
    }
}

/// Schema tide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schema {
    Missing,
    /// Somebody else's, or not to be seen; says what and what to do.
    Unusable(String),
    Found {
        version: i32,
        release: String,
        extension: bool,
    },
}

/// A transaction of some session.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transaction {
    pub(super) pid: i32,
    pub(super) seconds: f64,
    pub(super) application: String,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) state: String,
    pub(super) wrote: bool,
}

/// A prepared transaction that nobody ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prepared {
    pub(super) gid: String,
    pub(super) seconds: f64,
    pub(super) owner: String,
}

/// Everything about the server.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, no states")]
pub(super) struct Server {
    pub(super) at: String,
    pub(super) role: String,
    pub(super) version: i32,
    pub(super) in_recovery: bool,
    pub(super) encrypted: bool,
    /// Whether the connection stays on this machine.
    pub(super) local: bool,
    /// The database's clock less ours, in seconds, and how exact that is.
    pub(super) clock_offset: f64,
    pub(super) clock_error: f64,
    pub(super) schema: Schema,
    /// Rights of a relay that the role lacks.
    pub(super) lacking: Vec<String>,
    /// Whether role tide_relay exists and has been granted anything here.
    pub(super) relay_role: bool,
    pub(super) schema_owner: String,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) connections: i64,
    pub(super) max_connections: i64,
    /// Connections left to the role by its own or the database's limit.
    pub(super) own_limit: Option<i64>,
    pub(super) transactions: Vec<Transaction>,
    pub(super) prepared: Vec<Prepared>,
    /// Sessions with a transaction whose age may not be seen.
    pub(super) hidden: i64,
}

impl Server {
    /// Whether it makes sense to look further.
    pub(super) fn is_usable(&self) -> bool {
        matches!(&self.schema, Schema::Found { version, .. } if *version == pg_tide_schema::VERSION)
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = vec![self.connected()];
        found.extend(self.transport());
        found.extend(self.recovery());
        found.push(self.clock());
        found.push(self.schema());
        found.extend(self.rights());
        found.extend(self.settings());
        found.extend(self.capacity());
        found.extend(self.open_transactions());
        found
    }

    fn connected(&self) -> Finding {
        let version = format!("{}.{}", self.version / 10_000, self.version % 10_000);
        let message = format!(
            "Connected to PostgreSQL {version} at {} as \"{}\"{}.",
            self.at,
            self.role,
            if self.encrypted { ", with TLS" } else { "" }
        );
        if self.version < OLDEST {
            return Finding::problem("database-version", SUBJECT, message)
                .hint("pg-tide needs PostgreSQL 14 or newer");
        }
        Finding::ok("database-connected", SUBJECT, message)
    }

    fn transport(&self) -> Option<Finding> {
        (!self.encrypted && !self.local).then(|| {
            Finding::warning(
                "database-not-encrypted",
                SUBJECT,
                "The connection to PostgreSQL is not encrypted.",
            )
            .hint("add sslmode=verify-full and sslrootcert=FILE to the URL")
        })
    }

    fn recovery(&self) -> Option<Finding> {
        if self.in_recovery {
            return Some(
                Finding::problem(
                    "database-standby",
                    SUBJECT,
                    "The server is a standby: it takes no writes.",
                )
                .hint("connect to the primary; with several hosts in the URL, target_session_attrs=read-write finds it"),
            );
        }
        (self.setting("default_transaction_read_only") == Some("on")).then(|| {
            Finding::problem(
                "setting-read-only",
                SUBJECT,
                format!("Transactions of role \"{}\" are read-only.", self.role),
            )
            .hint(self.set_hint("default_transaction_read_only", "off"))
        })
    }

    fn clock(&self) -> Finding {
        let offset = self.clock_offset;
        if offset.abs() > CLOCK_SKEW + self.clock_error {
            return Finding::warning(
                "clock-skew",
                SUBJECT,
                format!(
                    "The database's clock is {:.1} s {} this machine's.",
                    offset.abs(),
                    if offset > 0.0 { "ahead of" } else { "behind" }
                ),
            )
            .hint("run NTP on both; latencies and ages are wrong otherwise");
        }
        Finding::ok("clock", SUBJECT, "The clocks agree.")
    }

    fn schema(&self) -> Finding {
        match &self.schema {
            Schema::Missing => Finding::problem("schema-missing", SUBJECT, "Schema tide is not installed.")
                .hint("run \"pg-tide schema install\" or CREATE EXTENSION pg_tide"),
            Schema::Unusable(reason) => Finding::problem(
                "schema-unusable",
                SUBJECT,
                format!("{}.", reason.trim_end_matches('.')),
            ),
            Schema::Found {
                version, extension, ..
            } if *version < pg_tide_schema::VERSION => Finding::problem(
                "schema-older",
                SUBJECT,
                format!(
                    "Schema tide has version {version}, this pg-tide needs {}.",
                    pg_tide_schema::VERSION
                ),
            )
            .hint(if *extension {
                "run ALTER EXTENSION pg_tide UPDATE"
            } else {
                "run \"pg-tide schema upgrade\""
            }),
            Schema::Found { version, release, .. } if *version > pg_tide_schema::VERSION => Finding::problem(
                "schema-newer",
                SUBJECT,
                format!(
                    "Schema tide has version {version} (release {release}), this pg-tide knows only {}.",
                    pg_tide_schema::VERSION
                ),
            )
            .hint(format!("use pg-tide {release} or newer")),
            Schema::Found { version, .. } => Finding::ok(
                "schema",
                SUBJECT,
                format!("Schema tide has version {version}, as it should."),
            ),
        }
    }

    fn rights(&self) -> Option<Finding> {
        if self.lacking.is_empty() {
            return self
                .is_usable()
                .then(|| Finding::ok("grants", SUBJECT, "The role has the rights that a relay needs."));
        }
        let hint = if self.relay_role {
            format!("GRANT tide_relay TO {}", quote(&self.role))
        } else {
            format!(
                "connect as {}, who owns the schema, or let it: GRANT {} TO {}",
                self.schema_owner,
                quote(&self.schema_owner),
                quote(&self.role)
            )
        };
        Some(
            Finding::problem(
                "grant-missing",
                SUBJECT,
                format!(
                    "Role \"{}\" lacks rights that a relay needs: {}.",
                    self.role,
                    some(&self.lacking, 4)
                ),
            )
            .hint(hint),
        )
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// A time in milliseconds; none when it is switched off.
    fn timeout(&self, name: &str) -> Option<f64> {
        self.setting(name)?
            .parse::<f64>()
            .ok()
            .filter(|ms| *ms > 0.0)
            .map(|ms| ms / 1_000.0)
    }

    fn set_hint(&self, name: &str, value: &str) -> String {
        format!("ALTER ROLE {} SET {name} = {value}", quote(&self.role))
    }

    fn settings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.setting("synchronous_commit") == Some("off") {
            found.push(
                Finding::problem(
                    "setting-synchronous-commit",
                    SUBJECT,
                    "synchronous_commit is off: when PostgreSQL crashes, messages are lost that were confirmed to a \
                     publisher (relays set it on for themselves).",
                )
                .hint(self.set_hint("synchronous_commit", "on")),
            );
        }
        if self.setting("fsync") == Some("off") {
            found.push(
                Finding::problem(
                    "setting-fsync",
                    SUBJECT,
                    "fsync is off: a crash of the machine may destroy the database.",
                )
                .hint("set fsync = on in postgresql.conf"),
            );
        }
        for (name, code, least) in [
            ("transaction_timeout", "setting-transaction-timeout", 60.0),
            ("statement_timeout", "setting-statement-timeout", 60.0),
        ] {
            let Some(seconds) = self.timeout(name).filter(|s| *s < least) else {
                continue;
            };
            let consequence = match name {
                "transaction_timeout" => "long reads of a backlog are cut off and begin anew",
                _ => "commands such as \"schema upgrade\" are cut off; relays set their own",
            };
            found.push(
                Finding::warning(
                    code,
                    SUBJECT,
                    format!("{name} is {} for this role: {consequence}.", age(seconds)),
                )
                .hint(self.set_hint(name, "0")),
            );
        }
        found
    }

    fn capacity(&self) -> Option<Finding> {
        let free = self.max_connections - self.connections;
        let left = self.own_limit.map_or(free, |own| own.min(free));
        if left >= RELAY_CONNECTIONS && free * 10 >= self.max_connections {
            return None;
        }
        let limit = if left < free {
            format!("Role \"{}\" may open {left} more connections", self.role)
        } else {
            format!(
                "{} of {} connections are in use",
                self.connections, self.max_connections
            )
        };
        Some(
            Finding::warning(
                "database-connections",
                SUBJECT,
                format!("{limit}; a relay needs up to {RELAY_CONNECTIONS}."),
            )
            .hint("raise max_connections or the CONNECTION LIMIT, or pool the application's connections"),
        )
    }

    fn open_transactions(&self) -> Vec<Finding> {
        let sessions = self.transactions.iter().map(|t| {
            let effect = if t.wrote {
                "what it published is not delivered before it ends, and a takeover has to look back as far"
            } else {
                "nothing is vacuumed that is younger"
            };
            Finding::warning(
                "long-transaction",
                SUBJECT,
                format!(
                    "A transaction has been open for {}: pid {} ({}, user {}, database {}, {}); {effect}.",
                    age(t.seconds),
                    t.pid,
                    if t.application.is_empty() {
                        "no application name"
                    } else {
                        &t.application
                    },
                    t.user,
                    t.database,
                    t.state
                ),
            )
            .hint(format!(
                "end it in the application, or SELECT pg_terminate_backend({})",
                t.pid
            ))
        });
        let prepared = self.prepared.iter().map(|p| {
            Finding::warning(
                "prepared-transaction",
                SUBJECT,
                format!(
                    "A prepared transaction of {} has been waiting for {}: '{}'; what it published is not delivered before it ends.",
                    p.owner,
                    age(p.seconds),
                    p.gid
                ),
            )
            .hint(format!("COMMIT PREPARED '{0}' or ROLLBACK PREPARED '{0}'", p.gid.replace('\'', "''")))
        });
        let hidden = (self.hidden > 0).then(|| {
            Finding::ok(
                "transactions-hidden",
                SUBJECT,
                format!(
                    "{} of other roles may be long; their age is not shown to this role.",
                    count(self.hidden, "transaction")
                ),
            )
            .hint(format!("GRANT pg_read_all_stats TO {}", quote(&self.role)))
        });
        sessions.chain(prepared).chain(hidden).collect()
    }
}

/// A text as SQL writes it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
