//! A run from its plan to its report: the stages joined.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pg_tide_e2e::{answer, await_condition};
use serde_json::json;
use tokio::time::Instant;

use crate::check::{self, Committed, Id, Outcome, Read, Verdict, ledger_agrees};
use crate::fault::{Kind, Sink};
use crate::inbox_check::{Row, Sent, check_inbox};
use crate::inject::Injector;
use crate::plan::Plan;
use crate::publishers::{Pace, Publishers};
use crate::readers::Reader;
use crate::report::{Arrivals, Findings, Report};
use crate::senders::{self, Senders};
use crate::timing::Millis;
use crate::transaction::{Fate, OUTBOXES, Transactions};
use crate::world::{INCOMING, PATIENCE, Setting, World};

/// For what is pending when everything is mended.
const REST: Duration = Duration::from_mins(4);
/// Before the first fault, each destination has had so many.
const WARM: usize = 50;
/// Offences that the history names one by one.
const NAMED: usize = 2_000;

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// After so long.
    Minutes(f64),
    /// After so many faults.
    Faults(usize),
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names the plan and the publishers' transactions.
    pub seed: u64,
    /// When to end.
    pub length: Length,
    /// The faults.
    pub kinds: Vec<Kind>,
    /// Rounds in which each fault is alone, before they are mixed.
    pub rounds: usize,
    /// Where pipelines lead to.
    pub sink: Sink,
    /// Relays at rest.
    pub relays: usize,
    /// Messages published a second.
    pub rate: u32,
    /// Messages sent a second for the way in.
    pub rate_in: u32,
    /// A folder for logs, summary.json and a failure's history.
    pub output: PathBuf,
    /// A protection that the relays do without.
    pub sabotage: Option<String>,
}

impl Options {
    /// The command line that does the same again.
    pub fn command(&self) -> String {
        let faults: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        let length = match self.length {
            Length::Minutes(minutes) => format!("MINUTES={minutes}"),
            Length::Faults(count) => format!("COUNT={count}"),
        };
        format!(
            "make chaos SEED={} {length} SINK={} FAULTS={}",
            self.seed,
            self.sink.name(),
            faults.join(",")
        )
    }
}

/// Runs; writes summary.json, and on failure the history.
pub async fn run(options: &Options) -> Report {
    std::fs::create_dir_all(&options.output).unwrap();
    let load_before = load_average();
    let pace = Pace {
        seed: options.seed,
        publishers: 8,
        slow: 2,
        rate: options.rate,
    };
    let world = Arc::new(
        World::up(Setting {
            sink: options.sink,
            relays: options.relays,
            publishers: pace.publishers,
            output: options.output.clone(),
            sabotage: options.sabotage.clone(),
        })
        .await,
    );
    let mut kinds = options.kinds.clone();
    kinds.retain(|kind| world.has_network() || !kind.needs_network());

    let broker = match options.sink {
        Sink::Nats => world.bed.addresses.nats.clone(),
        Sink::Kafka | Sink::Transactional => world.bed.addresses.kafka.clone(),
    };
    let readers: BTreeMap<String, Reader> = world
        .destinations
        .iter()
        .map(|d| {
            let reader = Reader::start(options.sink, &broker, &d.name, world.began());
            (d.name.clone(), reader)
        })
        .collect();
    let publishers = Publishers::start(&world.db.url(), &pace);
    let senders = Senders::start(options.sink, &broker, options.rate_in, world.began());
    await_condition(PATIENCE, "all pipelines deliver", async || {
        readers.values().all(|r| r.count() >= WARM).then_some(())
    })
    .await;

    let began = Instant::now();
    let mut injector = Injector::new(&world);
    let plan = Plan::new(options.seed, &kinds, options.rounds);
    match options.length {
        Length::Minutes(minutes) => {
            let deadline = began + Duration::from_secs_f64(minutes * 60.0);
            injector.follow(plan, Some(deadline)).await;
        }
        Length::Faults(count) => injector.follow(plan.take(count), None).await,
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;

    let outcomes = publishers.end().await;
    let sent_at: HashMap<Sent, Millis> = senders.end().await.into_iter().collect();
    let mut problems = Vec::new();
    problems.extend(world.ended().await);
    rest(&world, &readers, &mut problems).await;

    let ledger = ledger(&world).await;
    problems.extend(disagreements(&pace, &outcomes, &ledger));
    let log = senders::log(options.sink, &broker).await;
    let rows = inbox(&world, log.len()).await;
    let accepted = format!("SELECT accepted FROM tide.inbox_summary WHERE inbox_name = '{INCOMING}'");
    let accepted = world.db.number(&accepted).await;
    if usize::try_from(accepted) != Ok(rows.len()) {
        problems.push(format!(
            "the inbox counts {accepted} accepted messages and has {} rows",
            rows.len()
        ));
    }

    let mut verdict = Verdict::default();
    let mut arrivals = Arrivals::new();
    let mut all_reads = BTreeMap::new();
    for destination in &world.destinations {
        let reader = readers.get(&destination.name);
        assert!(reader.is_some(), "{}", destination.name);
    }
    for (name, reader) in readers {
        let (reads, strange) = reader.end().await;
        problems.extend(strange.first().map(|s| format!("{name}: a strange message: {s}")));
        let outbox = world
            .destinations
            .iter()
            .find(|d| d.name == name)
            .map(|d| d.outbox);
        let committed = ledger.iter().filter(|part| Some(part.key % OUTBOXES) == outbox);
        verdict.merge(check::check(committed.copied(), &reads));
        arrivals.insert(name.clone(), reads.iter().map(|r| r.at).collect());
        all_reads.insert(name, reads);
    }
    let findings = Findings {
        faults: injector.done(),
        arrivals,
        verdict,
        inbox: check_inbox(sent_at.keys().copied(), &log, &rows),
        sent_at,
        problems,
    };
    let load = [load_before, load_average()];
    let report = Report::new(options.sink.name(), options.seed, minutes, load, &findings);
    let path = options.output.join("summary.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
    if !report.is_clean() {
        keep_history(options, &findings, &all_reads);
    }
    report
}

/// Waits until everything is delivered and read, and says what is not as it
/// should be then.
async fn rest(world: &World, readers: &BTreeMap<String, Reader>, problems: &mut Vec<String>) {
    let db = &world.db;
    let mut expect = async |within, what: &str, sql: &str, wanted: &str| {
        let mut last = String::new();
        let come = answer(within, async || {
            last = db.try_text(sql).await.unwrap_or_else(|e| e);
            (last == wanted).then_some(())
        })
        .await;
        if come.is_none() {
            problems.push(format!("{what}: {last} instead of {wanted} within {within:?}"));
        }
    };
    expect(
        REST,
        "pending messages",
        "SELECT coalesce(sum(pending_count), 0) FROM tide.outbox_pending",
        "0",
    )
    .await;
    expect(
        PATIENCE,
        "lag of the consumer groups",
        "SELECT sum(lag) FROM tide.consumer_lag",
        "0",
    )
    .await;
    expect(
        PATIENCE,
        "pipelines that are not running with an owner and without lag",
        "SELECT string_agg(format('%s %s %s', pipeline, state, lag), ', ') FROM tide.relay_pipeline_status
          WHERE state <> 'running' OR owner IS NULL OR lag <> 0",
        "",
    )
    .await;
    expect(
        PATIENCE,
        "dead letters",
        "SELECT count(*) FROM tide.dead_letter",
        "0",
    )
    .await;
    let since = std::time::Instant::now();
    let quiet = answer(PATIENCE, async || {
        readers.values().all(|r| r.is_quiet(since)).then_some(())
    })
    .await;
    if quiet.is_none() {
        problems.push("the topics or streams do not come to rest".into());
    }
}

/// What was committed, by the transactions' own record.
async fn ledger(world: &World) -> Vec<Committed> {
    let sql = "SELECT transaction, part, key, first_n, count FROM chaos.ledger ORDER BY 1, 2";
    let text = world.db.text(sql).await;
    let parts = text.lines().map(|line| {
        let mut columns = line.split('|').map(|column| column.parse::<i64>().unwrap());
        let mut next = || columns.next().unwrap();
        Committed {
            transaction: next(),
            part: u16::try_from(next()).unwrap(),
            key: i32::try_from(next()).unwrap(),
            first_n: next(),
            count: u16::try_from(next()).unwrap(),
        }
    });
    parts.collect()
}

/// Where the ledger says otherwise than what publishers were told: then the
/// database or this suite is at fault.
fn disagreements(pace: &Pace, outcomes: &[Vec<Outcome>], ledger: &[Committed]) -> Vec<String> {
    let mut found: BTreeMap<i64, Vec<u16>> = BTreeMap::new();
    for part in ledger {
        found.entry(part.transaction).or_default().push(part.part);
    }
    let mut wrong = Vec::new();
    for (publisher, outcomes) in (0..).zip(outcomes) {
        let plan = Transactions::new(pace.seed, publisher, pace.is_slow(publisher));
        for (transaction, outcome) in plan.zip(outcomes) {
            let mut expected: Vec<u16> = transaction.kept().map(|(number, _)| number).collect();
            if transaction.fate == Fate::Rollback {
                expected.clear();
            }
            let found = found.remove(&transaction.id).unwrap_or_default();
            if !ledger_agrees(*outcome, &expected, &found) {
                wrong.push(format!(
                    "transaction {}: {outcome:?}, parts {expected:?} wanted, {found:?} in the ledger",
                    transaction.id
                ));
            }
        }
    }
    wrong.extend(
        found
            .keys()
            .next()
            .map(|id| format!("transaction {id} was never tried")),
    );
    wrong.truncate(10);
    wrong
}

/// The inbox's rows, when there are as many as wanted, or no more come.
async fn inbox(world: &World, wanted: usize) -> Vec<Row> {
    let count = format!("SELECT count(*) FROM tide.{INCOMING}_inbox");
    // Fewer or more are the verdict's business.
    answer(REST / 2, async || {
        (world.db.try_text(&count).await.ok()?.parse() == Ok(wanted)).then_some(())
    })
    .await;
    let sql = format!("SELECT event_id, payload FROM tide.{INCOMING}_inbox ORDER BY id");
    let text = world.db.text(&sql).await;
    let rows = text.lines().map(|line| {
        let (event_id, payload) = line.split_once('|').unwrap();
        Row {
            event_id: event_id.to_owned(),
            sent: senders::name(payload).unwrap(),
        }
    });
    rows.collect()
}

/// Everything that a failure can be understood by.
fn keep_history(options: &Options, findings: &Findings, reads: &BTreeMap<String, Vec<Read>>) {
    let some =
        |reads: &[Read]| -> Vec<String> { reads.iter().take(NAMED).map(|r| format!("{r:?}")).collect() };
    let verdict = &findings.verdict;
    let doubled: Vec<String> = verdict
        .doubled
        .iter()
        .take(NAMED)
        .map(|d| format!("{d:?}"))
        .collect();
    let history = json!({
        "command": options.command(),
        "faults": findings.faults,
        "lost": some(&verdict.lost),
        "doubled": doubled,
        "foreign": some(&verdict.foreign),
        "out_of_order": some(&verdict.out_of_order),
        "inbox": format!("{:?}", findings.inbox),
    });
    write(&options.output.join("history.json"), &format!("{history:#}\n"));
    for (name, reads) in reads {
        let mut text = "transaction,part,index,key,n,at_ms,lane\n".to_owned();
        for Read { id, key, n, at, lane } in reads {
            let Id {
                transaction,
                part,
                index,
            } = id;
            let _ = writeln!(text, "{transaction},{part},{index},{key},{n},{at},{lane}");
        }
        write(&options.output.join(format!("reads-{name}.csv")), &text);
    }
}

fn write(path: &Path, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("chaos: {}: {error}", path.display());
    }
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
