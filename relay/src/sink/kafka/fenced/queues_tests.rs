//! The queues against a broker that does with idempotent batches what Kafka
//! does, on a network that loses requests, answers and connections.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::compression::Compression;
use super::*;

const BROKER: i32 = 1;

/// The log of one partition: sequence numbers, which are the opaques too.
#[derive(Debug, Default)]
struct Log {
    records: Vec<i32>,
    /// First and last number, offset of the first; the broker knows five.
    batches: VecDeque<(i32, i32, i64)>,
}

impl Log {
    fn append(&mut self, batch: &[u8]) -> Result<i64, i16> {
        let number = |at: usize| i32::from_be_bytes(batch[at..at + 4].try_into().unwrap());
        let (first, count) = (number(53), number(57));
        let last = first + count - 1;
        if let Some((.., offset)) = self.batches.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
            return Ok(*offset);
        }
        let next = self.batches.back().map_or(0, |(_, last, _)| last + 1);
        if first != next {
            return Err(code::OUT_OF_ORDER_SEQUENCE);
        }
        let offset = i64::try_from(self.records.len()).unwrap();
        self.records.extend(first..=last);
        self.batches.push_back((first, last, offset));
        if self.batches.len() > 5 {
            self.batches.pop_front();
        }
        Ok(offset)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push(i32),
    Send,
    /// The broker takes the next request, or says that it cannot just now,
    /// before or after it has written it.
    Handle(Fate),
    Answer,
    /// The connection breaks; the broker still gets so many requests of it.
    Break(usize),
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Taken,
    NotTaken,
    TakenAndDenied,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2i32).prop_map(Step::Push),
        4 => Just(Step::Send),
        4 => prop_oneof![4 => Just(Fate::Taken), 1 => Just(Fate::NotTaken), 1 => Just(Fate::TakenAndDenied)]
            .prop_map(Step::Handle),
        4 => Just(Step::Answer),
        1 => (0..4usize).prop_map(Step::Break),
    ]
}

type Request = (Vec<Outgoing>, Vec<Awaited>);

struct World {
    queues: Queues,
    logs: [Log; 2],
    pushed: [i32; 2],
    acknowledged: [Vec<(usize, i64)>; 2],
    requests: VecDeque<Request>,
    answers: VecDeque<(Vec<Awaited>, Vec<Produced>)>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let mut queues = Queues::default();
        let batching = Batching {
            linger: None,
            bytes: 250,
            compression: Compression::None,
        };
        queues.add("t", 2, ProducerId { id: 9, epoch: 3 }, batching);
        queues.learn(Metadata {
            brokers: vec![(BROKER, "h".into(), 1)],
            leaders: vec![("t".into(), 0, BROKER), ("t".into(), 1, BROKER)],
        });
        Self {
            queues,
            logs: Default::default(),
            pushed: [0; 2],
            acknowledged: Default::default(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            now: Instant::now(),
        }
    }

    fn run(&mut self, step: Step) {
        self.now += Duration::from_secs(1);
        match step {
            Step::Push(partition) => {
                let at = usize::try_from(partition).unwrap();
                let opaque = usize::try_from(self.pushed[at]).unwrap();
                let record = Record {
                    key: None,
                    value: &[0; 60],
                    headers: std::iter::empty(),
                };
                self.queues.push(0, partition, (self.now, 0), record, opaque);
                self.pushed[at] += 1;
            }
            Step::Send => {
                let request = self.queues.collect(BROKER, self.now);
                if !request.0.is_empty() {
                    self.requests.push_back(request);
                }
            }
            Step::Handle(fate) => {
                if let Some((outgoing, awaited)) = self.requests.pop_front() {
                    let answers = outgoing.iter().map(|to| self.handle(to, fate)).collect();
                    self.answers.push_back((awaited, answers));
                }
            }
            Step::Answer => {
                if let Some((awaited, answers)) = self.answers.pop_front() {
                    let verdict = self.queues.answered(&awaited, &answers, self.now);
                    assert_eq!(verdict.over, None);
                    for outcome in verdict.outcomes {
                        let (partition, offset) = outcome.result.unwrap();
                        self.acknowledged[usize::try_from(partition).unwrap()].push((outcome.opaque, offset));
                    }
                }
            }
            Step::Break(arrive) => {
                for (outgoing, _) in std::mem::take(&mut self.requests).into_iter().take(arrive) {
                    for to in &outgoing {
                        self.handle(to, Fate::Taken);
                    }
                }
                self.answers.clear();
                self.queues.lost(BROKER, self.now);
            }
        }
    }

    fn handle(&mut self, to: &Outgoing, fate: Fate) -> Produced {
        const NOT_ENOUGH_REPLICAS: i16 = 19;
        let log = &mut self.logs[usize::try_from(to.partition).unwrap()];
        let appended = match fate {
            Fate::NotTaken => Err(NOT_ENOUGH_REPLICAS),
            Fate::Taken => log.append(&to.batch),
            Fate::TakenAndDenied => log.append(&to.batch).and(Err(NOT_ENOUGH_REPLICAS)),
        };
        Produced {
            topic: to.topic.clone(),
            partition: to.partition,
            code: appended.err().unwrap_or(code::NONE),
            base_offset: appended.unwrap_or(-1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_record_is_in_the_log_once_and_in_order(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        for _ in 0..200 {
            for step in [Step::Send, Step::Handle(Fate::Taken), Step::Answer] {
                world.run(step);
            }
        }
        for partition in 0..2 {
            let all: Vec<i32> = (0..world.pushed[partition]).collect();
            prop_assert_eq!(&world.logs[partition].records, &all);
            let mut acknowledged = std::mem::take(&mut world.acknowledged[partition]);
            acknowledged.sort_unstable();
            let each: Vec<(usize, i64)> = (0..all.len()).zip(0..).collect();
            prop_assert_eq!(acknowledged, each);
        }
    }
}

#[test]
fn an_owner_that_is_shut_out_sends_nothing_more() {
    let mut world = World::new();
    world.run(Step::Push(0));
    world.run(Step::Send);
    let (outgoing, awaited) = world.requests.pop_front().unwrap();
    let fenced = Produced {
        topic: "t".into(),
        partition: outgoing[0].partition,
        code: code::INVALID_PRODUCER_EPOCH,
        base_offset: -1,
    };
    let verdict = world.queues.answered(&awaited, &[fenced], world.now);
    assert_eq!((verdict.over, verdict.outcomes), (Some(Over::Fenced), Vec::new()));
    world.run(Step::Push(1));
    world.run(Step::Send);
    assert!(world.requests.is_empty());
}
