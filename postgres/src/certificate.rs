//! The two things that are read out of certificates here and that rustls does
//! not tell.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

/// The server's certificate as `tls-server-end-point` wants it (RFC 5929):
/// hashed as its signature is, but by SHA-256 where that is MD5 or SHA-1. None
/// where the RFC leaves it open, as for Ed25519; SCRAM then goes without.
pub(super) fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    const SHA256: [&str; 6] = [
        "1.2.840.113549.1.1.4",
        "1.2.840.113549.1.1.5",
        "1.2.840.113549.1.1.11",
        "1.2.840.10045.4.1",
        "1.2.840.10045.4.3.2",
        "2.16.840.1.101.3.4.3.2",
    ];
    const SHA384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
    const SHA512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
    let algorithm = Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    let is = |ids: &[&str]| ids.iter().any(|id| ObjectIdentifier::new(id) == Ok(algorithm));
    if is(&SHA256) {
        Some(Sha256::digest(certificate).to_vec())
    } else if is(&SHA384) {
        Some(Sha384::digest(certificate).to_vec())
    } else if is(&SHA512) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}

/// From when to when a certificate is valid, in seconds since 1970.
pub(super) fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
    Some((
        validity.not_before.to_unix_duration().as_secs(),
        validity.not_after.to_unix_duration().as_secs(),
    ))
}
