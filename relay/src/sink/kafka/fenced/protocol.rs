//! The few requests of Kafka's protocol that are needed here, in versions that
//! brokers from 2.1 on speak (<https://kafka.apache.org/protocol>).

use bytes::{Buf, BufMut as _, Bytes, BytesMut};

use super::record_batch::ProducerId;

/// Error codes that are told apart, and what the broker has done with a batch.
pub(super) mod code {
    pub(in super::super) const NONE: i16 = 0;
    pub(in super::super) const COORDINATOR_LOADING: i16 = 14;
    pub(in super::super) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub(in super::super) const OUT_OF_ORDER_SEQUENCE: i16 = 45;
    pub(in super::super) const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub(in super::super) const CONCURRENT_TRANSACTIONS: i16 = 51;
    /// Of partitions beside one that has an error of its own.
    pub(in super::super) const OPERATION_NOT_ATTEMPTED: i16 = 55;
    pub(in super::super) const PRODUCER_FENCED: i16 = 90;
}

/// Whether a batch may be sent again: nothing is wrong with it.
pub(super) fn is_passing(code: i16) -> bool {
    // CORRUPT_MESSAGE (on the way), UNKNOWN_TOPIC_OR_PARTITION and the leader's
    // absence (while one is elected), REQUEST_TIMED_OUT, NETWORK_EXCEPTION,
    // NOT_ENOUGH_REPLICAS (before or after it was written), KAFKA_STORAGE_ERROR,
    // FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH, THROTTLING_QUOTA_EXCEEDED.
    matches!(code, 2 | 3 | 5 | 6 | 7 | 13 | 19 | 20 | 56 | 74 | 75 | 89)
}

/// A request, by its number and version in the protocol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Api {
    key: i16,
    version: i16,
}

pub(super) const PRODUCE: Api = Api { key: 0, version: 7 };
pub(super) const METADATA: Api = Api { key: 3, version: 4 };
pub(super) const FIND_COORDINATOR: Api = Api { key: 10, version: 1 };
pub(super) const SASL_HANDSHAKE: Api = Api { key: 17, version: 1 };
pub(super) const INIT_PRODUCER_ID: Api = Api { key: 22, version: 1 };
pub(super) const ADD_PARTITIONS_TO_TXN: Api = Api { key: 24, version: 0 };
pub(super) const END_TXN: Api = Api { key: 26, version: 1 };
pub(super) const SASL_AUTHENTICATE: Api = Api { key: 36, version: 0 };

/// An answer that is not as the protocol has it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer that is not Kafka's; is this the port of a broker?")]
pub(super) struct Malformed;

type Read<T> = Result<T, Malformed>;

/// Size, header and body. Not for large requests.
pub(super) fn frame(api: Api, correlation: i32, client: &str, body: &[u8]) -> Bytes {
    let mut frame = head(api, correlation, client, body.len());
    frame.extend_from_slice(body);
    frame.freeze()
}

fn head(api: Api, correlation: i32, client: &str, body: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(14 + client.len() + body);
    frame.put_i32(i32::try_from(10 + client.len() + body).unwrap_or(i32::MAX));
    frame.put_i16(api.key);
    frame.put_i16(api.version);
    frame.put_i32(correlation);
    put_text(&mut frame, client);
    frame
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
}

/// A batch in a produce request.
#[derive(Debug, Clone)]
pub(super) struct ToProduce<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) batch: Bytes,
}

/// A produce request, as pieces to be written one after the other. Batches of
/// one topic lie together.
pub(super) fn produce(
    correlation: i32,
    client: &str,
    timeout_ms: i32,
    batches: &[ToProduce<'_>],
) -> Vec<Bytes> {
    let topics: Vec<&[ToProduce<'_>]> = batches.chunk_by(|a, b| a.topic == b.topic).collect();
    let size = 2
        + 2
        + 4
        + 4
        + topics.iter().map(|t| 2 + t[0].topic.len() + 4).sum::<usize>()
        + batches.iter().map(|b| 8 + b.batch.len()).sum::<usize>();
    let mut pieces = Vec::with_capacity(2 * batches.len());
    let mut out = head(PRODUCE, correlation, client, size);
    // In no transaction.
    out.put_i16(-1);
    // All replicas in sync.
    out.put_i16(-1);
    out.put_i32(timeout_ms);
    put_count(&mut out, topics.len());
    for topic in topics {
        put_text(&mut out, topic[0].topic);
        put_count(&mut out, topic.len());
        for to in topic {
            out.put_i32(to.partition);
            put_count(&mut out, to.batch.len());
            pieces.push(out.split().freeze());
            pieces.push(to.batch.clone());
        }
    }
    pieces
}

/// What the broker says of one partition's batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Produced {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) code: i16,
    pub(super) base_offset: i64,
}

pub(super) fn produced(mut from: Bytes) -> Read<Vec<Produced>> {
    let mut all = Vec::new();
    for _ in 0..count(&mut from)? {
        let topic = text(&mut from)?;
        for _ in 0..count(&mut from)? {
            all.push(Produced {
                topic: topic.clone(),
                partition: int32(&mut from)?,
                code: int16(&mut from)?,
                base_offset: int64(&mut from)?,
            });
            // Time of appending, start of the log.
            int64(&mut from)?;
            int64(&mut from)?;
        }
    }
    Ok(all)
}

pub(super) fn metadata_request(topics: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    put_count(&mut out, topics.len());
    for topic in topics {
        put_text(&mut out, topic);
    }
    // Topics are made when they are opened, not by being asked for.
    out.put_u8(0);
    out.freeze()
}

/// Where brokers are, and which of them lead.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) brokers: Vec<(i32, String, u16)>,
    /// Topic, partition, leader; those that have one.
    pub(super) leaders: Vec<(String, i32, i32)>,
}

pub(super) fn metadata(mut from: Bytes) -> Read<Metadata> {
    let mut found = Metadata::default();
    // Throttle time.
    int32(&mut from)?;
    for _ in 0..count(&mut from)? {
        let id = int32(&mut from)?;
        let host = text(&mut from)?;
        let port = u16::try_from(int32(&mut from)?).map_err(|_| Malformed)?;
        nullable(&mut from)?;
        found.brokers.push((id, host, port));
    }
    nullable(&mut from)?;
    // Controller.
    int32(&mut from)?;
    for _ in 0..count(&mut from)? {
        int16(&mut from)?;
        let topic = text(&mut from)?;
        boolean(&mut from)?;
        for _ in 0..count(&mut from)? {
            let code = int16(&mut from)?;
            let (partition, leader) = (int32(&mut from)?, int32(&mut from)?);
            for _ in 0..2 {
                for _ in 0..count(&mut from)? {
                    int32(&mut from)?;
                }
            }
            if code == code::NONE && leader >= 0 {
                found.leaders.push((topic.clone(), partition, leader));
            }
        }
    }
    Ok(found)
}

pub(super) fn find_coordinator_request(transactional_id: &str) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, transactional_id);
    // Of transactions.
    out.put_i8(1);
    out.freeze()
}

/// Error code, host and port.
pub(super) fn coordinator(mut from: Bytes) -> Read<(i16, String, u16)> {
    int32(&mut from)?;
    let code = int16(&mut from)?;
    nullable(&mut from)?;
    int32(&mut from)?;
    let host = text(&mut from)?;
    let port = u16::try_from(int32(&mut from)?).unwrap_or(0);
    Ok((code, host, port))
}

pub(super) fn init_producer_id_request(transactional_id: &str, timeout_ms: i32) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, transactional_id);
    out.put_i32(timeout_ms);
    out.freeze()
}

pub(super) fn producer_id(mut from: Bytes) -> Read<(i16, ProducerId)> {
    int32(&mut from)?;
    let code = int16(&mut from)?;
    let (id, epoch) = (int64(&mut from)?, int16(&mut from)?);
    Ok((code, ProducerId { id, epoch }))
}

pub(super) fn add_partitions_request(
    transactional_id: &str,
    producer: ProducerId,
    partitions: &[(&str, i32)],
) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, transactional_id);
    put_producer(&mut out, producer);
    let topics: Vec<&[(&str, i32)]> = partitions.chunk_by(|a, b| a.0 == b.0).collect();
    put_count(&mut out, topics.len());
    for topic in topics {
        put_text(&mut out, topic[0].0);
        put_count(&mut out, topic.len());
        for (_, partition) in topic {
            out.put_i32(*partition);
        }
    }
    out.freeze()
}

/// The first error among the partitions, with its topic.
pub(super) fn partitions_added(mut from: Bytes) -> Read<(i16, String)> {
    int32(&mut from)?;
    let mut worst = (code::NONE, String::new());
    for _ in 0..count(&mut from)? {
        let topic = text(&mut from)?;
        for _ in 0..count(&mut from)? {
            int32(&mut from)?;
            let code = int16(&mut from)?;
            if code != code::NONE && (worst.0 == code::NONE || worst.0 == code::OPERATION_NOT_ATTEMPTED) {
                worst = (code, topic.clone());
            }
        }
    }
    Ok(worst)
}

/// Aborts.
pub(super) fn end_txn_request(transactional_id: &str, producer: ProducerId) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, transactional_id);
    put_producer(&mut out, producer);
    out.put_u8(0);
    out.freeze()
}

/// Of an answer that begins with the throttle time and holds nothing else.
pub(super) fn error_code(mut from: Bytes) -> Read<i16> {
    int32(&mut from)?;
    int16(&mut from)
}

pub(super) fn sasl_handshake_request(mechanism: &str) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, mechanism);
    out.freeze()
}

pub(super) fn sasl_handshake(mut from: Bytes) -> Read<i16> {
    int16(&mut from)
}

pub(super) fn sasl_authenticate_request(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put_count(&mut out, message.len());
    out.extend_from_slice(message);
    out.freeze()
}

/// Error code, the broker's words, its message.
pub(super) fn sasl_authenticate(mut from: Bytes) -> Read<(i16, String, Bytes)> {
    let code = int16(&mut from)?;
    let words = nullable(&mut from)?.unwrap_or_default();
    let length = count(&mut from)?;
    if from.len() < length {
        return Err(Malformed);
    }
    Ok((code, words, from.split_to(length)))
}

fn put_producer(out: &mut BytesMut, producer: ProducerId) {
    out.put_i64(producer.id);
    out.put_i16(producer.epoch);
}

fn int16(from: &mut Bytes) -> Read<i16> {
    from.try_get_i16().map_err(|_| Malformed)
}

fn int32(from: &mut Bytes) -> Read<i32> {
    from.try_get_i32().map_err(|_| Malformed)
}

fn int64(from: &mut Bytes) -> Read<i64> {
    from.try_get_i64().map_err(|_| Malformed)
}

fn boolean(from: &mut Bytes) -> Read<bool> {
    from.try_get_u8().map(|b| b != 0).map_err(|_| Malformed)
}

/// The length of an array; -1 counts as none. Each element has a byte at least.
fn count(from: &mut Bytes) -> Read<usize> {
    let count = usize::try_from(int32(from)?.max(0)).map_err(|_| Malformed)?;
    if count > from.len() {
        return Err(Malformed);
    }
    Ok(count)
}

fn nullable(from: &mut Bytes) -> Read<Option<String>> {
    let Ok(length) = usize::try_from(int16(from)?) else {
        return Ok(None);
    };
    if from.len() < length {
        return Err(Malformed);
    }
    let text = from.split_to(length);
    Ok(Some(String::from_utf8(text.to_vec()).map_err(|_| Malformed)?))
}

fn text(from: &mut Bytes) -> Read<String> {
    nullable(from)?.ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_produce_request_is_as_long_as_it_says() {
        let to = |topic, partition| ToProduce {
            topic,
            partition,
            batch: Bytes::from_static(b"batch"),
        };
        let pieces = produce(7, "me", 5_000, &[to("a", 0), to("a", 1), to("bb", 0)]);
        let mut all = Bytes::from(pieces.concat());
        assert_eq!(usize::try_from(all.get_i32()).unwrap(), all.len());
        let small = frame(METADATA, 1, "me", &metadata_request(&["a", "bb"]));
        assert_eq!(usize::try_from((&small[..]).get_i32()).unwrap(), small.len() - 4);
    }

    proptest! {
        /// A server that is no broker may send anything.
        #[test]
        fn no_answer_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = produced(bytes.clone());
            let _ = metadata(bytes.clone());
            let _ = coordinator(bytes.clone());
            let _ = producer_id(bytes.clone());
            let _ = partitions_added(bytes.clone());
            let _ = sasl_authenticate(bytes);
        }
    }
}
