//! Record batches, version 2 of Kafka's message format
//! (<https://kafka.apache.org/documentation/#recordbatch>).

use bytes::{BufMut as _, Bytes, BytesMut};

use super::compression::Compression;

/// Bytes before the records: of them the first 21 are not in the checksum.
const HEADER: usize = 61;
const CHECKED_FROM: usize = 21;
const MAGIC: i8 = 2;
/// What a record costs beside key, value and headers, at most.
const RECORD_OVERHEAD: usize = 32;

/// Who sends a batch: the broker takes nothing of an earlier epoch any more,
/// and each number once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProducerId {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

/// One record to be added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a, H> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: &'a [u8],
    pub(super) headers: H,
}

/// Records of one partition, in their wire form, up to the header that only
/// the sealed batch can have.
#[derive(Debug, Default)]
pub(super) struct Records {
    body: BytesMut,
    scratch: BytesMut,
    count: i32,
    base_timestamp: i64,
    last_timestamp: i64,
}

impl Records {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch, before compression.
    pub(super) fn bytes(&self) -> usize {
        HEADER + self.body.len()
    }

    /// Adds a record; its `timestamp` in ms since 1970.
    pub(super) fn push<'a, H>(&mut self, timestamp: i64, record: Record<'a, H>)
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.last_timestamp = self.last_timestamp.max(timestamp);
        let line = &mut self.scratch;
        line.clear();
        line.reserve(record.value.len() + record.key.map_or(0, <[u8]>::len) + RECORD_OVERHEAD);
        line.put_i8(0);
        put_varint(line, timestamp - self.base_timestamp);
        put_varint(line, i64::from(self.count));
        put_bytes(line, record.key);
        put_bytes(line, Some(record.value));
        put_varint(line, count_of(record.headers.clone()));
        for (name, value) in record.headers {
            put_bytes(line, Some(name.as_bytes()));
            put_bytes(line, value);
        }
        put_varint(&mut self.body, length(line.len()));
        self.body.extend_from_slice(line);
        self.count += 1;
    }

    /// The batch as it goes over the wire, under the numbers from
    /// `base_sequence` on. The records are taken out.
    pub(super) fn seal(
        &mut self,
        producer: ProducerId,
        base_sequence: i32,
        compression: Compression,
    ) -> Bytes {
        let body = self.body.split();
        let (attributes, body) = compression.apply(body.freeze());
        let mut batch = BytesMut::with_capacity(HEADER + body.len());
        batch.put_i64(0);
        batch.put_i32(i32::try_from(HEADER - 12 + body.len()).unwrap_or(i32::MAX));
        batch.put_i32(-1);
        batch.put_i8(MAGIC);
        batch.put_u32(0);
        batch.put_i16(attributes);
        batch.put_i32(self.count - 1);
        batch.put_i64(self.base_timestamp);
        batch.put_i64(self.last_timestamp);
        batch.put_i64(producer.id);
        batch.put_i16(producer.epoch);
        batch.put_i32(base_sequence);
        batch.put_i32(self.count);
        batch.extend_from_slice(&body);
        let checksum = crc32c::crc32c(&batch[CHECKED_FROM..]);
        batch[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
        self.count = 0;
        self.last_timestamp = 0;
        batch.freeze()
    }
}

fn count_of<T>(items: impl Iterator<Item = T>) -> i64 {
    length(items.count())
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

/// Zigzag, seven bits a byte, the lowest first.
fn put_varint(out: &mut BytesMut, value: i64) {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;
    use proptest::prelude::*;

    type Headers = Vec<(String, Option<Vec<u8>>)>;
    type Read = (i64, Option<Vec<u8>>, Vec<u8>, Headers);

    fn varint(from: &mut Bytes) -> i64 {
        let (mut raw, mut shift) = (0u64, 0);
        loop {
            let byte = from.get_u8();
            raw |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return (raw >> 1).cast_signed() ^ -((raw & 1).cast_signed());
            }
            shift += 7;
        }
    }

    fn bytes(from: &mut Bytes) -> Option<Vec<u8>> {
        let length = usize::try_from(varint(from)).ok()?;
        Some(from.split_to(length).to_vec())
    }

    /// Written from the format's description, apart from the encoder.
    fn read(mut batch: Bytes) -> (ProducerId, i32, Vec<Read>) {
        assert_eq!(batch.get_i64(), 0);
        assert_eq!(usize::try_from(batch.get_i32()).unwrap(), batch.len());
        batch.advance(4);
        assert_eq!(batch.get_i8(), 2);
        assert_eq!(batch.get_u32(), crc32c::crc32c(&batch));
        assert_eq!(batch.get_i16(), 0);
        let last = batch.get_i32();
        let (first_at, last_at) = (batch.get_i64(), batch.get_i64());
        let producer = ProducerId {
            id: batch.get_i64(),
            epoch: batch.get_i16(),
        };
        let sequence = batch.get_i32();
        assert_eq!(batch.get_i32(), last + 1);
        let mut records = Vec::new();
        while batch.has_remaining() {
            let length = usize::try_from(varint(&mut batch)).unwrap();
            let mut record = batch.split_to(length);
            assert_eq!(record.get_i8(), 0);
            let at = first_at + varint(&mut record);
            assert_eq!(usize::try_from(varint(&mut record)).unwrap(), records.len());
            let (key, value) = (bytes(&mut record), bytes(&mut record).unwrap());
            let headers = (0..varint(&mut record))
                .map(|_| {
                    let name = String::from_utf8(bytes(&mut record).unwrap()).unwrap();
                    (name, bytes(&mut record))
                })
                .collect();
            assert!(!record.has_remaining());
            records.push((at, key, value, headers));
        }
        assert_eq!(records.iter().map(|(at, ..)| *at).max().unwrap(), last_at);
        (producer, sequence, records)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            records in prop::collection::vec(
                (
                    0..2_000_000_000_000i64,
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
                    prop::collection::vec(any::<u8>(), 0..2_000),
                    prop::collection::vec((".{0,20}", prop::option::of(prop::collection::vec(any::<u8>(), 0..50))), 0..4),
                ),
                1..20,
            ),
            id in any::<i64>(), epoch in any::<i16>(), sequence in 0..i32::MAX,
        ) {
            let mut batch = Records::default();
            for (at, key, value, headers) in &records {
                batch.push(*at, Record {
                    key: key.as_deref(),
                    value,
                    headers: headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())),
                });
            }
            let producer = ProducerId { id, epoch };
            let sealed = batch.seal(producer, sequence, Compression::None);
            prop_assert!(batch.is_empty());
            prop_assert_eq!(read(sealed), (producer, sequence, records));
        }
    }
}
