//! Topics in use and the numbers of their partitions' streams.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cursor::Positions;

/// Bits of a delivery opaque that number the topic; the rest is the ticket.
pub(super) const TOPIC_BITS: u32 = 12;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) partitions: i32,
    /// Number of partition 0's stream; the others follow.
    first_stream: u32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Topics {
    all: Vec<Topic>,
    by_name: HashMap<String, usize>,
    streams: Vec<Arc<str>>,
}

impl Topics {
    /// False when there are too many.
    pub(super) fn add(&mut self, name: &str, partitions: i32) -> bool {
        if self.all.len() >= 1 << TOPIC_BITS {
            return false;
        }
        let first_stream = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        self.streams
            .extend((0..partitions).map(|p| Arc::<str>::from(format!("{name}/{p}"))));
        self.by_name.insert(name.to_owned(), self.all.len());
        self.all.push(Topic {
            name: name.to_owned(),
            partitions,
            first_stream,
        });
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.all.iter()
    }

    pub(super) fn last(&self) -> Option<&Topic> {
        self.all.last()
    }

    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The topic of a delivery opaque.
    pub(super) fn of(&self, opaque: usize) -> &Topic {
        &self.all[opaque & ((1 << TOPIC_BITS) - 1)]
    }

    pub(super) fn stream_name(&self, stream: u32) -> Arc<str> {
        self.streams
            .get(stream as usize)
            .cloned()
            .unwrap_or_else(|| Arc::from(""))
    }
}

impl Topic {
    /// None for a partition that was added since the topic was looked up.
    pub(super) fn stream(&self, partition: i32) -> Option<u32> {
        (partition < self.partitions).then(|| self.first_stream + u32::try_from(partition).unwrap_or(0))
    }

    /// Partitions without a position.
    pub(super) fn unknown(&self, known: &Positions) -> Vec<i32> {
        (0..self.partitions)
            .filter(|p| !known.contains_key(&format!("{}/{p}", self.name)))
            .collect()
    }
}
