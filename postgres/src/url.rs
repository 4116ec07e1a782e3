//! Where the data lives: a connection string, or the file that holds it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::DatabaseError;
use crate::target::{Target, TlsOverrides};

/// A database to connect to. The connection string is parsed, and its file
/// read, at every connection, so that new passwords are used without restart.
#[derive(Debug, Clone)]
pub struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    overrides: TlsOverrides,
}

enum Source {
    Text(String),
    File(PathBuf),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("***"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Database {
    /// The database at a URL.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn new(url: &str) -> Result<Self, DatabaseError> {
        Self::with_tls(url, TlsOverrides::default())
    }

    /// The same, with settings of TLS that stand above those of the URL.
    ///
    /// # Errors
    /// When the URL and these cannot be read or do not go together.
    pub fn with_tls(url: &str, overrides: TlsOverrides) -> Result<Self, DatabaseError> {
        let database = Self(Arc::new(Inner {
            source: Source::Text(url.to_owned()),
            overrides,
        }));
        database.target()?;
        Ok(database)
    }

    /// The database whose URL is in a file, which need not be there yet.
    #[must_use]
    pub fn in_file(file: PathBuf, overrides: TlsOverrides) -> Self {
        Self(Arc::new(Inner {
            source: Source::File(file),
            overrides,
        }))
    }

    pub(super) fn target(&self) -> Result<Target, DatabaseError> {
        let Inner { source, overrides } = &*self.0;
        match source {
            Source::Text(text) => Target::parse(text, overrides).map_err(DatabaseError::Url),
            Source::File(file) => {
                let text = std::fs::read_to_string(file).map_err(|e| {
                    DatabaseError::Url(format!("cannot read its file {}: {e}", file.display()))
                })?;
                Target::parse(&text, overrides)
                    .map_err(|e| DatabaseError::Url(format!("in file {}: {e}", file.display())))
            }
        }
    }

    /// Hosts, ports and database, without secrets.
    #[must_use]
    pub fn at(&self) -> String {
        match (self.target(), &self.0.source) {
            (Ok(target), _) => target.at(),
            (Err(_), Source::File(file)) => format!("the URL in {}", file.display()),
            (Err(_), Source::Text(_)) => "an unreadable URL".into(),
        }
    }
}
