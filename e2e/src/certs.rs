//! Certificates made for one test: an authority, servers, clients.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority whose files lie in a folder of its own.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate, PEM.
    pub ca: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key (PKCS#8), readable by all: servers run as roles of their own.
    pub key: PathBuf,
}

impl Certificate {
    /// One that signed itself and calls itself an authority, as `openssl req
    /// -x509` makes them.
    pub fn self_signed(folder: &Path, common_name: &str, hosts: &[&str]) -> Self {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let files = Self {
            cert: folder.join(format!("{common_name}.crt")),
            key: folder.join(format!("{common_name}.key")),
        };
        std::fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

impl Authority {
    /// A new authority; its files go to `folder`, which is made.
    pub fn new(folder: &Path, name: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let ca = folder.join(format!("{name}.crt"));
        std::fs::write(&ca, certificate.pem()).unwrap();
        Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
            ca,
        }
    }

    /// A certificate with this common name, for these host names and
    /// addresses (none for a client).
    pub fn issue(&self, common_name: &str, hosts: &[&str]) -> Certificate {
        self.issue_edited(common_name, hosts, |_| {})
    }

    /// The same, but one that was valid only until some years ago.
    pub fn issue_expired(&self, common_name: &str, hosts: &[&str]) -> Certificate {
        self.issue_edited(common_name, hosts, |params| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        })
    }

    fn issue_edited(
        &self,
        common_name: &str,
        hosts: &[&str],
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Certificate {
            cert: self.folder.join(format!("{common_name}.crt")),
            key: self.folder.join(format!("{common_name}.key")),
        };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
