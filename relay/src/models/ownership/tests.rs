use super::properties::{COMPLETE, DELIVERED, ONCE, ONE_OWNER, RECORDED};
use super::{Broker, Fault, Ownership, Protection};
use crate::models::{holds, violates, violates_only};

/// Kafka by the relay's own producer.
const FENCED: Ownership = Ownership {
    relays: 2,
    messages: 2,
    partitions: 1,
    window: 2,
    broker: Broker::Fencing,
    slow_answers: false,
    faults: &[
        Fault::Crash,
        Fault::Session,
        Fault::Connection,
        Fault::Stop,
        Fault::Restart,
    ],
    most_faults: 2,
    off: None,
};

/// NATS, or Kafka by librdkafka: nobody is later than the settle time.
const SETTLING: Ownership = Ownership {
    broker: Broker::Settling {
        late: false,
        window: false,
    },
    ..FENCED
};

/// One message and one death are enough.
const DEATH: Ownership = Ownership {
    messages: 1,
    faults: &[Fault::Crash],
    most_faults: 1,
    ..FENCED
};

#[test]
fn with_a_fence_two_faults_lose_and_double_nothing() {
    let model = Ownership {
        partitions: 2,
        ..FENCED
    };
    holds("fence, 2 partitions, 2 faults", model);
}

#[test]
fn with_a_fence_more_messages_than_the_window_holds_are_safe() {
    let model = Ownership {
        messages: 3,
        partitions: 2,
        slow_answers: true,
        most_faults: 1,
        ..FENCED
    };
    holds("fence, 3 messages", model);
}

#[test]
fn with_a_fence_two_owners_may_be_stale_at_once() {
    let model = Ownership {
        relays: 3,
        messages: 1,
        faults: &[Fault::Session],
        ..FENCED
    };
    holds("fence, 3 relays", model);
}

#[test]
fn checkpoints_that_are_executed_late_harm_nothing() {
    let model = Ownership {
        faults: &[Fault::Crash, Fault::Restart, Fault::Writer],
        most_faults: 3,
        ..FENCED
    };
    holds("late checkpoints", model);
}

#[test]
fn with_a_settle_time_three_faults_lose_and_double_nothing() {
    let model = Ownership {
        messages: 3,
        slow_answers: true,
        most_faults: 3,
        ..SETTLING
    };
    holds("settle time", model);
}

/// What remains without a fence, and nothing else: a request that is later than
/// the settle time makes second copies. None is lost, first copies are in order.
/// (A position may then lie behind a copy that came late.)
#[test]
fn later_than_the_settle_time_doubles_and_does_nothing_worse() {
    let late = Ownership {
        broker: Broker::Settling {
            late: true,
            window: false,
        },
        messages: 3,
        most_faults: 1,
        ..FENCED
    };
    violates("later than the settle time", late.clone(), &[ONCE]);
    violates_only("later than the settle time", late, &[ONCE, RECORDED]);
}

/// The position may be wrong, but the stream knows the ids.
#[test]
fn with_a_duplicate_window_a_request_may_be_late() {
    let model = Ownership {
        broker: Broker::Settling {
            late: true,
            window: true,
        },
        ..FENCED
    };
    violates_only("late, with a duplicate window", model, &[RECORDED]);
}

#[test]
fn without_the_epoch_fence_a_stale_owner_doubles() {
    let model = Ownership {
        messages: 1,
        faults: &[Fault::Session],
        most_faults: 1,
        off: Some(Protection::EpochFence),
        ..FENCED
    };
    violates("no epoch fence", model, &[ONE_OWNER, ONCE]);
}

#[test]
fn without_the_tail_scan_a_takeover_doubles() {
    let off = Some(Protection::TailScan);
    violates("no tail scan", Ownership { off, ..DEATH }, &[ONCE]);
}

#[test]
fn without_the_broker_fence_a_late_request_doubles() {
    let off = Some(Protection::BrokerFence);
    violates("no broker fence", Ownership { off, ..DEATH }, &[ONCE]);
}

#[test]
fn without_a_checkpoint_before_the_first_message_the_tail_is_not_found() {
    let off = Some(Protection::FirstCheckpoint);
    violates("no first checkpoint", Ownership { off, ..DEATH }, &[ONCE]);
}

#[test]
fn without_the_contiguous_prefix_a_message_is_lost() {
    let model = Ownership {
        messages: 2,
        partitions: 2,
        off: Some(Protection::ContiguousPrefix),
        ..DEATH
    };
    violates("no contiguous prefix", model, &[COMPLETE, DELIVERED]);
}

#[test]
fn without_a_new_epoch_a_late_clean_checkpoint_doubles() {
    let model = Ownership {
        faults: &[Fault::Restart, Fault::Writer, Fault::Crash],
        most_faults: 3,
        off: Some(Protection::NewEpochAfterClean),
        ..FENCED
    };
    violates("no new epoch after a clean end", model, &[ONCE]);
}
