//! References to other resources of the same namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What names of resources look like.
const NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// What keys of Secrets look like.
const KEY: &str = "^[-._a-zA-Z0-9]+$";

/// A resource of the same namespace, by its name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its metadata.name.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
}

/// A TideDatabase of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseRef {
    /// Name of a TideDatabase in this namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A key of a Secret of the same namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of a Secret in this namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub key: String,
}

impl SecretKeyRef {
    /// A key of a Secret.
    pub fn new(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
        }
    }
}

/// A reference to one key, which has a default.
macro_rules! secret_ref {
    ($(#[$doc:meta])* $name:ident, $default:literal) => {
        $(#[$doc])*
        #[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Name of a Secret in this namespace.
            #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
            pub name: String,
            /// Key in the Secret.
            #[serde(default = $default)]
            #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
            pub key: String,
        }

        impl From<&$name> for SecretKeyRef {
            fn from(reference: &$name) -> Self {
                Self::new(&reference.name, &reference.key)
            }
        }
    };
}

secret_ref!(
    /// A key of a Secret that has a URL of PostgreSQL; the key is `uri` when
    /// none is named, as in the Secrets of CloudNativePG.
    UriSecretRef,
    "keys::uri"
);
secret_ref!(
    /// A key of a Secret that has certificates to trust, as PEM; the key is
    /// `ca.crt` when none is named.
    CaSecretRef,
    "keys::ca"
);

/// A Secret with a certificate and its key, such as one of type
/// kubernetes.io/tls.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSecretRef {
    /// Name of a Secret in this namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// Key of the certificate, PEM.
    #[serde(default = "keys::certificate")]
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub cert_key: String,
    /// Key of the certificate's private key, PEM.
    #[serde(default = "keys::private_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub key_key: String,
}

impl CertificateSecretRef {
    /// Where the certificate is.
    #[must_use]
    pub fn certificate(&self) -> SecretKeyRef {
        SecretKeyRef::new(&self.name, &self.cert_key)
    }

    /// Where its private key is.
    #[must_use]
    pub fn private_key(&self) -> SecretKeyRef {
        SecretKeyRef::new(&self.name, &self.key_key)
    }
}

/// A Secret with a user name and a password, such as one of type
/// kubernetes.io/basic-auth.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LoginSecretRef {
    /// Name of a Secret in this namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// Key of the user name; not read when username is set.
    #[serde(default = "keys::username")]
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub username_key: String,
    /// Key of the password.
    #[serde(default = "keys::password")]
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub password_key: String,
}

impl LoginSecretRef {
    /// Where the user name is.
    #[must_use]
    pub fn username(&self) -> SecretKeyRef {
        SecretKeyRef::new(&self.name, &self.username_key)
    }

    /// Where the password is.
    #[must_use]
    pub fn password(&self) -> SecretKeyRef {
        SecretKeyRef::new(&self.name, &self.password_key)
    }
}

/// The keys that Secrets have by custom.
mod keys {
    pub fn uri() -> String {
        "uri".into()
    }

    pub fn ca() -> String {
        "ca.crt".into()
    }

    pub fn certificate() -> String {
        "tls.crt".into()
    }

    pub fn private_key() -> String {
        "tls.key".into()
    }

    pub fn username() -> String {
        "username".into()
    }

    pub fn password() -> String {
        "password".into()
    }
}
