//! Streams and topic partitions of a reverse pipeline's source, and where the
//! inbox stands in them. Pure.

use std::collections::HashMap;

use crate::database::inbox::Moves;
use crate::source::{Incoming, Position};

/// The source's streams, as the inbox knows them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) named: HashMap<u32, Named>,
    /// The consumer group whose positions the inbox keeps.
    pub(super) group: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) source_ref: i32,
    /// Where the inbox stands, when it keeps that.
    pub(super) next: Option<i64>,
}

impl Streams {
    /// A position as the inbox stores it.
    pub(super) fn stored(&self, position: Option<Position>) -> Option<(i32, i64)> {
        let position = position?;
        Some((self.named.get(&position.stream)?.source_ref, position.sequence))
    }

    /// How positions move when these messages are settled, and for which stream
    /// which is the next then. Messages of a stream come in order.
    pub(super) fn moves(&self, settled: &[Incoming]) -> (Moves, Vec<(u32, i64)>) {
        let mut moves = Moves::default();
        let mut reached = Vec::new();
        if self.group.is_none() {
            return (moves, reached);
        }
        // From the end: the last one of a stream says where it stands.
        let mut seen = Vec::new();
        for position in settled.iter().rev().filter_map(|m| m.position) {
            if seen.contains(&position.stream) {
                continue;
            }
            seen.push(position.stream);
            let next = position.sequence + 1;
            if let Some(named) = self.named.get(&position.stream)
                && named.next.is_none_or(|now| now < next)
            {
                moves.source_refs.push(named.source_ref);
                moves.expected.push(named.next);
                moves.next.push(next);
                moves.times.push(position.time);
                reached.push((position.stream, next));
            }
        }
        (moves, reached)
    }

    /// The inbox stands there now.
    pub(super) fn reach(&mut self, reached: &[(u32, i64)]) {
        for (stream, next) in reached {
            if let Some(named) = self.named.get_mut(stream) {
                named.next = Some(*next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Ack, Headers};

    fn message(stream: u32, sequence: i64) -> Incoming {
        Incoming {
            kind: "kafka",
            subject: "t".into(),
            payload: None,
            headers: Headers::default(),
            position: Some(Position {
                stream,
                sequence,
                time: Some(sequence * 10),
            }),
            ack: Ack::None,
        }
    }

    fn streams(group: Option<&str>) -> Streams {
        let named = |source_ref, next| Named { source_ref, next };
        Streams {
            named: HashMap::from([(1, named(11, Some(5))), (2, named(12, None))]),
            group: group.map(str::to_owned),
        }
    }

    #[test]
    fn the_last_message_of_each_stream_moves_it_once() {
        let mut streams = streams(Some("g"));
        let settled = [message(1, 5), message(2, 0), message(1, 9), message(2, 3)];
        let (moves, reached) = streams.moves(&settled);
        let wanted = Moves {
            source_refs: vec![12, 11],
            expected: vec![None, Some(5)],
            next: vec![4, 10],
            times: vec![Some(30), Some(90)],
        };
        assert_eq!(moves, wanted);
        streams.reach(&reached);
        assert_eq!(streams.moves(&settled), (Moves::default(), Vec::new()));
        assert_eq!(streams.moves(&settled[..1]).1, Vec::new(), "never back");
    }

    #[test]
    fn nothing_moves_where_the_inbox_keeps_no_positions() {
        let streams = streams(None);
        assert_eq!(streams.moves(&[message(1, 7)]), (Moves::default(), Vec::new()));
        assert_eq!(streams.stored(message(1, 7).position), Some((11, 7)));
        assert_eq!(streams.stored(None), None);
    }
}
