//! What was changed by hand on inboxes is found and put right.

use crate::catalogue::{catalogue, difference};
use crate::repair::{INBOX_FAULTS, repair_inbox, used};

#[tokio::test]
async fn every_fault_of_an_inbox_is_found_and_repaired() {
    let (_database, session) = used().await;
    let before = catalogue(&session).await;
    assert!(session.rows(INBOX_FAULTS).await.is_empty());
    assert!(repair_inbox(&session).await.is_empty(), "all is well");
    for (by_hand, fault, kept, numbers_from) in [
        (
            "DELETE FROM tide.inbox",
            "the row in tide.inbox is missing",
            3,
            41,
        ),
        (
            "DELETE FROM tide.inbox_counter",
            "the row in tide.inbox_counter is missing",
            3,
            41,
        ),
        (
            "DROP TABLE tide.payments_inbox; UPDATE tide.inbox_counter SET last_seq = 99",
            "table tide.payments_inbox is missing",
            0,
            99,
        ),
        (
            "DROP INDEX tide.payments_inbox_dedup_key_idx",
            "the unique index on dedup_key is missing",
            3,
            41,
        ),
        (
            "DROP INDEX tide.payments_inbox_source_ref_source_seq_idx",
            "the unique index on source_ref, source_seq is missing",
            3,
            41,
        ),
        (
            "DROP INDEX tide.payments_inbox_id_idx",
            "the index on id of pending messages is missing",
            3,
            41,
        ),
        (
            "ALTER TABLE tide.payments_inbox DROP CONSTRAINT payments_inbox_event_id_key",
            "the unique index on event_id is missing",
            3,
            41,
        ),
        (
            "ALTER TABLE tide.payments_inbox DROP CONSTRAINT payments_inbox_pkey",
            "the unique index on id is missing",
            3,
            41,
        ),
        (
            "REVOKE ALL ON tide.payments_inbox FROM tide_relay",
            "tide_relay has not all rights on its table",
            3,
            41,
        ),
        (
            "REVOKE UPDATE (claim) ON tide.payments_inbox FROM tide_admin",
            "tide_admin has not all rights on its table",
            3,
            41,
        ),
    ] {
        session.run("BEGIN").await;
        session.run(by_hand).await;
        assert_eq!(
            session.rows(INBOX_FAULTS).await,
            [format!("payments|{fault}")],
            "{by_hand}"
        );
        let done = repair_inbox(&session).await;
        assert!(done[0].starts_with(&format!("{fault}: ")), "{by_hand}: {done:?}");
        assert!(session.rows(INBOX_FAULTS).await.is_empty(), "{by_hand}");
        assert!(repair_inbox(&session).await.is_empty(), "{by_hand}");
        let differs = difference(&before, &catalogue(&session).await);
        assert!(differs.is_empty(), "{by_hand}\n{}", differs.join("\n"));
        assert_eq!(
            session.number("SELECT count(*) FROM tide.payments_inbox").await,
            kept,
            "{by_hand}"
        );
        assert_eq!(
            session.number("SELECT last_seq FROM tide.inbox_counter").await,
            numbers_from,
            "{by_hand}"
        );
        session.run("ROLLBACK").await;
    }
}
