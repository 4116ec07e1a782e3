//! The options of TLS, the same for every connector.

use super::options::{OptionError, Options};
use super::secret::{SecretRef, Setting};

/// Certificates, each in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsSpec {
    /// Whom to trust; without it the system's roots.
    pub(crate) ca: Option<Setting>,
    /// Our own certificate, and its key.
    pub(crate) cert: Option<Setting>,
    pub(crate) key: Option<SecretRef>,
}

impl TlsSpec {
    pub(super) fn read(options: &mut Options) -> Result<Self, OptionError> {
        let tls = Self {
            ca: options.setting("tls_ca")?,
            cert: options.setting("tls_cert")?,
            key: options.secret("tls_key")?,
        };
        match (&tls.cert, &tls.key) {
            (Some(_), None) => Err(OptionError::Missing {
                key: "tls_key".into(),
            }),
            (None, Some(_)) => Err(OptionError::Missing {
                key: "tls_cert".into(),
            }),
            _ => Ok(tls),
        }
    }
}
