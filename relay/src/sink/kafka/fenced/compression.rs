//! Compression of a batch's records as Kafka's clients do it.

use std::io::Write as _;

use bytes::Bytes;

/// See the module's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Java's snappy library frames what it compresses, and expects it so.
const SNAPPY_MAGIC: &[u8] = b"\x82SNAPPY\x00";
const SNAPPY_BLOCK: usize = 32 << 10;

impl Compression {
    /// By the option's name; others mean none.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Attributes and bytes to send. What cannot be compressed goes as it is.
    pub(super) fn apply(self, records: Bytes) -> (i16, Bytes) {
        let compressed = match self {
            Self::None => None,
            Self::Gzip => gzip(&records).map(|bytes| (1, bytes)),
            Self::Snappy => snappy(&records).map(|bytes| (2, bytes)),
            Self::Lz4 => lz4(&records).map(|bytes| (3, bytes)),
            Self::Zstd => zstd::bulk::compress(&records, zstd::DEFAULT_COMPRESSION_LEVEL)
                .ok()
                .map(|bytes| (4, bytes)),
        };
        match compressed {
            Some((attributes, bytes)) => (attributes, bytes.into()),
            None => (0, records),
        }
    }
}

fn gzip(records: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(records).ok()?;
    encoder.finish().ok()
}

fn lz4(records: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(records).ok()?;
    encoder.finish().ok()
}

fn snappy(records: &[u8]) -> Option<Vec<u8>> {
    let mut out = SNAPPY_MAGIC.to_vec();
    // Version, and the oldest that can read it.
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK) {
        let compressed = encoder.compress_vec(block).ok()?;
        out.extend_from_slice(&u32::try_from(compressed.len()).ok()?.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Some(out)
}
