//! The event that everything is measured with: an order of 300 bytes of JSON with an `event_type` header.
//!
//! The text is what PostgreSQL prints for this jsonb value (keys by length, then by name; a blank after colon and
//! comma), so the payload has the same 300 bytes in a table, in Kafka and in NATS. Every event has an `order_id` of
//! ten digits, by which a consumer tells which one arrived. No letter may follow a colon directly: pgbench would take
//! it for a variable.

use memchr::memmem;

/// Bytes of every payload.
pub const PAYLOAD_BYTES: usize = 300;

/// The payload's text before the order id.
pub const HEAD: &str = concat!(
    r#"{"note": "leave at the back door, ring it twice", "items": "#,
    r#"[{"qty": 2, "sku": "WIDGET-01", "price": 49.99}, {"qty": 1, "sku": "GADGET-03", "price": 50.01}], "#,
    r#""total": 149.99, "status": "confirmed", "currency": "EUR", "order_id": "#
);

/// The payload's text after the order id.
pub const TAIL: &str = r#", "placed_at": "2026-11-24", "customer_id": "customer-000042"}"#;

/// Order ids count from here, so that all have ten digits.
pub const FIRST_ORDER: u64 = 1_000_000_000;

const ORDER_DIGITS: usize = 10;

/// Values of the header `event_type`; the order with number n has the one at n modulo 4.
pub const EVENT_TYPES: [&str; 4] = [
    "order.confirmed",
    "order.packed",
    "order.shipped",
    "order.cancelled",
];

/// The event type of the n-th order.
pub fn event_type(n: u64) -> &'static str {
    EVENT_TYPES[usize::try_from(n % 4).unwrap_or_default()]
}

/// The headers of the n-th order, as JSON.
pub fn headers(n: u64) -> String {
    format!(r#"{{"event_type": "{}"}}"#, event_type(n))
}

/// The payload's texts before and after the order id, for payloads of so many bytes: 300, from 80 to 299, or 324 and
/// more. Those longer than usual have a remark that does not compress, so that PostgreSQL stores what it is given.
pub fn texts(bytes: usize) -> (String, String) {
    const SHORT_HEAD: &str = r#"{"sku": "WIDGET-01", "total": 149.99, "order_id": "#;
    const SHORT_TAIL: &str = r#", "customer_id": ""#;
    const REMARK: &str = r#", "delivery_remarks": ""#;
    const END: &str = r#""}"#;
    let usual = TAIL.trim_end_matches('}');
    let (head, tail) = match bytes {
        PAYLOAD_BYTES => return (HEAD.to_owned(), TAIL.to_owned()),
        _ if bytes < PAYLOAD_BYTES => (SHORT_HEAD, SHORT_TAIL.to_owned()),
        _ => (HEAD, format!("{usual}{REMARK}")),
    };
    let room = bytes.saturating_sub(head.len() + ORDER_DIGITS + tail.len() + END.len());
    (head.to_owned(), format!("{tail}{}{END}", noise(room)))
}

/// Letters and digits in no order (xorshift), always the same.
fn noise(length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let letters = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[usize::from(state.to_le_bytes()[4] & 63)])
    });
    letters.take(length).collect()
}

/// A payload whose order id is replaced in place: making the next event costs next to nothing.
pub struct Payload {
    text: Vec<u8>,
    /// Where the order id begins.
    id_at: usize,
}

impl Payload {
    /// The payload of the order with number 0, of so many bytes.
    pub fn of(bytes: usize) -> Self {
        let (head, tail) = texts(bytes);
        Self {
            text: format!("{head}{FIRST_ORDER}{tail}").into_bytes(),
            id_at: head.len(),
        }
    }

    /// Turns it into the n-th order.
    pub fn set(&mut self, n: u64) -> &[u8] {
        let mut rest = FIRST_ORDER + n;
        for digit in self.text[self.id_at..self.id_at + ORDER_DIGITS].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
        }
        &self.text
    }

    /// The n-th order as text.
    pub fn text(n: u64) -> String {
        format!("{HEAD}{}{TAIL}", FIRST_ORDER + n)
    }
}

/// The number of the order in a payload; none when it is not one of ours.
pub fn number(payload: &[u8]) -> Option<u64> {
    const NAME: &[u8] = br#""order_id":"#;
    let after = memmem::find(payload, NAME)? + NAME.len();
    let digits = payload[after..].trim_ascii_start();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let id: u64 = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    id.checked_sub(FIRST_ORDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_has_the_size_that_figures_are_quoted_for() {
        assert_eq!(Payload::text(0).len(), PAYLOAD_BYTES);
        assert_eq!(Payload::text(999_999_999).len(), PAYLOAD_BYTES);
    }

    #[test]
    fn a_payload_set_in_place_equals_the_text() {
        let mut payload = Payload::of(PAYLOAD_BYTES);
        assert_eq!(payload.set(42), Payload::text(42).as_bytes());
        assert_eq!(payload.set(7), Payload::text(7).as_bytes());
    }

    #[test]
    fn payloads_of_other_sizes_have_these_and_their_number() {
        for bytes in [100, 299, 350, 2048, 65_536] {
            let mut payload = Payload::of(bytes);
            let text = payload.set(77);
            assert_eq!(text.len(), bytes, "{bytes}");
            let value: serde_json::Value = serde_json::from_slice(text).expect("a payload is JSON");
            assert_eq!(value["order_id"], FIRST_ORDER + 77);
            assert_eq!(number(text), Some(77), "{bytes}");
        }
    }

    #[test]
    fn the_number_is_found_whatever_the_blanks() {
        assert_eq!(number(Payload::text(123_456).as_bytes()), Some(123_456));
        assert_eq!(number(br#"{"order_id":1000000005}"#), Some(5));
        assert_eq!(number(br#"{"order_id": 5}"#), None);
        assert_eq!(number(b"{}"), None);
    }

    #[test]
    fn pgbench_sees_no_variable_in_the_texts() {
        for text in [HEAD, TAIL, &headers(0)] {
            assert!(
                !text
                    .as_bytes()
                    .windows(2)
                    .any(|pair| pair[0] == b':' && pair[1] != b' '),
                "{text}"
            );
        }
    }
}
