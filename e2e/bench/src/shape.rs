//! What the messages of a measurement look like: how long the payload is, which headers they have of their own, and
//! what they are keyed by. Backlogs are made by it in SQL, and the client libraries send the same from memory.

use crate::event::{self, EVENT_TYPES, PAYLOAD_BYTES};

/// Values of the headers that every message with more than one has alike.
const MORE_HEADERS: [(&str, &str); 4] = [
    ("tenant", "acme-europe"),
    ("region", "eu-central-1"),
    ("schema", "orders/order-confirmed/3"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
];

/// The most headers a message can have of its own, its key's not counted.
pub const MOST_HEADERS: usize = 1 + MORE_HEADERS.len();

/// What a message's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// None: only Kafka's partition, if there is one, keeps an order.
    None,
    /// The header `event_type`, one of four.
    EventType,
    /// The header `customer`, one of so many in turn.
    Customers(u64),
}

/// A kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the payload.
    pub bytes: usize,
    /// Headers of its own, `event_type` the first of them; the key's header comes on top.
    pub headers: usize,
    /// What it is keyed by.
    pub keys: Keys,
}

impl Shape {
    /// The event that everything is measured with if nothing else is said.
    pub const USUAL: Self = Self {
        bytes: PAYLOAD_BYTES,
        headers: 1,
        keys: Keys::EventType,
    };

    /// How many keys there are. Messages without a key are of one partition, and so in one order.
    pub fn key_count(self) -> u64 {
        match self.keys {
            Keys::None => 1,
            Keys::EventType => EVENT_TYPES.len() as u64,
            Keys::Customers(count) => count,
        }
    }

    /// The `key` of a pipeline to Kafka.
    pub fn key_template(self) -> Option<&'static str> {
        match self.keys {
            Keys::None => None,
            Keys::EventType => Some("{event_type}"),
            Keys::Customers(_) => Some("{customer}"),
        }
    }

    /// Writes the n-th message's key; false when it has none.
    pub fn write_key(self, n: u64, key: &mut String) -> bool {
        key.clear();
        match self.keys {
            Keys::None => return false,
            Keys::EventType => key.push_str(event::event_type(n)),
            Keys::Customers(count) => {
                key.push_str("customer-");
                key.push_str(&(n % count).to_string());
            }
        }
        true
    }

    /// The n-th message's own headers, without its key's.
    pub fn headers(self, n: u64) -> impl Iterator<Item = (&'static str, &'static str)> {
        [("event_type", event::event_type(n))]
            .into_iter()
            .chain(MORE_HEADERS)
            .take(self.headers)
    }

    /// All headers of message `g` as an expression of SQL.
    pub fn headers_sql(self) -> String {
        let types = EVENT_TYPES.map(|name| format!("'{name}'")).join(", ");
        let mut parts = vec![format!("'event_type', (ARRAY[{types}])[1 + g % 4]")];
        parts.extend(MORE_HEADERS.map(|(name, value)| format!("'{name}', '{value}'")));
        parts.truncate(self.headers);
        if let Keys::Customers(count) = self.keys {
            parts.push(format!("'customer', 'customer-' || g % {count}"));
        }
        format!("jsonb_build_object({})", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_in_sql_are_those_that_the_library_sends() {
        for headers in 0..=MOST_HEADERS {
            let shape = Shape {
                headers,
                ..Shape::USUAL
            };
            let sql = shape.headers_sql();
            assert_eq!(shape.headers(0).count(), headers);
            assert!(
                shape
                    .headers(0)
                    .all(|(name, _)| sql.contains(&format!("'{name}', ")))
            );
        }
        let none = Shape {
            headers: 0,
            ..Shape::USUAL
        };
        assert_eq!(none.headers_sql(), "jsonb_build_object()");
    }

    #[test]
    fn customers_take_turns() {
        let shape = Shape {
            keys: Keys::Customers(3),
            ..Shape::USUAL
        };
        let mut key = String::from("old");
        assert!(shape.write_key(5, &mut key));
        assert_eq!(key, "customer-2");
        assert!(shape.headers_sql().contains("'customer-' || g % 3"));
        let none = Shape {
            keys: Keys::None,
            ..shape
        };
        assert!(!none.write_key(5, &mut key));
        assert_eq!((none.key_count(), shape.key_count()), (1, 3));
    }
}
