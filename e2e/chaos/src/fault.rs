//! The kinds of faults, by name.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::dice::Dice;
use std::time::Duration;

/// Where pipelines lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Kafka in its default mode.
    Kafka,
    /// Kafka with `delivery: transactional`.
    Transactional,
    /// NATS JetStream.
    Nats,
}

impl Sink {
    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Transactional => "transactional",
            Self::Nats => "nats",
        }
    }

    /// Whether its broker is Kafka.
    pub fn is_kafka(self) -> bool {
        self != Self::Nats
    }
}

impl FromStr for Sink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Kafka, Self::Transactional, Self::Nats]
            .into_iter()
            .find(|sink| sink.name() == text)
            .ok_or_else(|| format!("{text}: must be kafka, transactional or nats"))
    }
}

/// What a fault happens to. Two of one target are never at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One relay or several; each is broken by one fault at a time.
    Relays,
    /// The database server.
    Postgres,
    /// Kafka or NATS.
    Broker,
    /// Configuration in SQL.
    Pipelines,
}

macro_rules! kinds {
    ($($kind:ident $name:literal $target:ident $first:literal..$last:literal $what:literal,)*) => {
        /// What goes wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind {
            $(#[doc = $what] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// As the command line and reports name it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// What happens.
            pub fn what(self) -> &'static str {
                match self { $(Self::$kind => $what,)* }
            }

            /// What it happens to.
            pub fn target(self) -> Target {
                match self { $(Self::$kind => Target::$target,)* }
            }

            /// How long it lasts, by the dice.
            pub fn duration(self, dice: &mut Dice) -> Duration {
                match self { $(Self::$kind => dice.millis($first, $last),)* }
            }
        }
    };
}

// Times in milliseconds: how long until it is mended.
kinds! {
    KillRelay "kill-relay" Relays 300..2000 "an owner is killed (SIGKILL); another relay is started later",
    FreezeRelay "freeze-relay" Relays 2500..7000 "an owner is frozen (SIGSTOP) for longer than its lease, and goes on",
    ZombieRelay "zombie-relay" Relays 2500..6000 "an owner is frozen and its lock session ended, so that another takes over; then it wakes",
    LateCheckpoint "late-checkpoint" Relays 600..1200 "an owner ends without its line to PostgreSQL and another takes over; all others die, and what the first wrote arrives",
    StopRelay "stop-relay" Relays 300..2000 "an owner is asked to end (SIGTERM); another relay is started later",
    RollingRestart "rolling-restart" Relays 200..1000 "each relay is replaced, one after the other",
    ScaleRelays "scale-relays" Relays 1500..4000 "two relays more for a while",
    KillPostgres "kill-postgres" Postgres 100..2000 "PostgreSQL is killed with all its backends",
    RestartPostgres "restart-postgres" Postgres 0..1000 "immediate shutdown of PostgreSQL, and a start",
    EndLockSession "end-lock-session" Postgres 0..100 "pg_terminate_backend on an owner's lock connection",
    EndSessions "end-sessions" Postgres 0..100 "pg_terminate_backend on all sessions of all relays",
    KillBroker "kill-broker" Broker 100..2000 "the broker is killed and started again",
    FreezeBroker "freeze-broker" Broker 1000..6000 "the broker stands still (SIGSTOP) for less than a relay waits",
    SilenceBroker "silence-broker" Broker 12000..15000 "the broker stands still for longer than a relay waits",
    CutRelay "cut-relay" Relays 6000..9000 "an owner's host vanishes from the network without a word, and is back later",
    CutFromPostgres "cut-from-postgres" Relays 500..7000 "an owner loses PostgreSQL without a word, and finds it again",
    CutFromBroker "cut-from-broker" Relays 500..7000 "an owner loses the broker without a word, and finds it again",
    OneWay "one-way" Relays 500..7000 "packets between an owner and a server get through one way only",
    SlowNetwork "slow-network" Relays 2000..5000 "an owner's line is a slow drip",
    Toggle "toggle" Pipelines 200..1500 "a pipeline is disabled, and enabled again",
    Reconfigure "reconfigure" Pipelines 0..100 "a pipeline's batch size is changed",
}

impl Kind {
    /// Whether it needs network namespaces.
    pub fn needs_network(self) -> bool {
        matches!(
            self,
            Self::LateCheckpoint
                | Self::CutRelay
                | Self::CutFromPostgres
                | Self::CutFromBroker
                | Self::OneWay
                | Self::SlowNetwork
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|k| k.name()).collect();
            format!("there is no fault {text}; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert!("kill".parse::<Kind>().unwrap_err().contains("kill-relay"));
    }
}
