//! Connections to PostgreSQL as relay and operator open them: connection
//! strings as libpq takes them, TLS, several hosts, pools, and refusals in
//! words that name their cause.

mod certificate;
mod conninfo;
mod dial;
mod error;
mod keys;
mod pool;
mod pooler;
mod session;
mod target;
mod tls;
mod url;
mod verifier;
pub mod words;

pub use error::{Cause, DatabaseError, describe};
pub use pool::{Pool, Pooled};
pub use session::{Profile, Session};
pub use target::{PemText, PemTexts, TlsOverrides};
pub use url::Database;
