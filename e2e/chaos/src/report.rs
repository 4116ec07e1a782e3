//! What came of a run: figures by kind of fault, as a table and as JSON. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde::Serialize;

use crate::check::Verdict;
use crate::fault::{Kind, Target};
use crate::inbox_check::{InboxVerdict, Sent};
use crate::inject::Injected;
use crate::timing::{Millis, Pause, longest_pause, percentile, takeover};

/// What a fault may still be the cause of, after it is mended.
const AFTERMATH: Millis = 15_000;
/// An owner's pipelines stop so soon when it is broken.
const AT_ONCE: Millis = 1_500;
/// The last message before a fault may be so much older than it.
const BEFORE_NEXT: Millis = 300;
/// Before a fault, so long nothing may have been broken, for it to be alone.
const PEACE: Millis = 1_000;

/// Figures of one kind of fault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KindFigures {
    /// How often it was.
    pub count: usize,
    /// Messages that were lost, by their time.
    pub lost: usize,
    /// Messages that came again in its course.
    pub doubled: usize,
    /// From the fault to the first delivery after the pause, of each pipeline
    /// that it concerned, when nothing else was broken; sorted.
    pub resumed_ms: Vec<Millis>,
    /// The longest of these pauses themselves.
    pub longest_pause_ms: Millis,
}

/// Arrivals at a destination, rising.
pub type Arrivals = BTreeMap<String, Vec<Millis>>;

/// Figures of all kinds.
pub fn by_kind(findings: &Findings) -> BTreeMap<Kind, KindFigures> {
    let Findings {
        faults,
        arrivals,
        verdict,
        inbox,
        sent_at,
        ..
    } = findings;
    let mut figures: BTreeMap<Kind, KindFigures> = BTreeMap::new();
    for (number, fault) in faults.iter().enumerate() {
        let entry = figures.entry(fault.kind).or_default();
        entry.count += 1;
        let before = &faults[..number];
        if before.iter().any(|other| other.ended + PEACE > fault.began) {
            continue;
        }
        let next = faults.get(number + 1).map_or(Millis::MAX, |next| next.began);
        // The pause before the next fault is not this one's.
        let until = (fault.began + reach(fault)).min(next.saturating_sub(BEFORE_NEXT));
        for (name, arrivals) in arrivals {
            if !fault.pipelines.is_empty() && !fault.pipelines.contains(name) {
                continue;
            }
            if let Some(pause) = longest_pause(arrivals, fault.began, until) {
                entry.longest_pause_ms = entry.longest_pause_ms.max(pause.length());
            }
            entry.resumed_ms.extend(takeover(arrivals, fault.began, until));
        }
    }
    for (_, at) in &verdict.doubled {
        if let Some(kind) = cause(faults, *at) {
            figures.entry(kind).or_default().doubled += 1;
        }
    }
    let lost_out = verdict.lost.iter().map(|lost| lost.at);
    let lost_in = inbox.lost.iter().filter_map(|sent| sent_at.get(sent).copied());
    for at in lost_out.chain(lost_in) {
        if let Some(kind) = cause(faults, at) {
            figures.entry(kind).or_default().lost += 1;
        }
    }
    for at in inbox.doubled.iter().filter_map(|sent| sent_at.get(sent)) {
        if let Some(kind) = cause(faults, *at) {
            figures.entry(kind).or_default().doubled += 1;
        }
    }
    for figure in figures.values_mut() {
        figure.resumed_ms.sort_unstable();
    }
    figures
}

/// How far behind its beginning the pause begins that it causes. What follows
/// when a relay is replaced is another matter.
fn reach(fault: &Injected) -> Millis {
    let lasting = fault.ended - fault.began;
    match fault.kind {
        Kind::RollingRestart | Kind::ScaleRelays => lasting,
        kind if kind.target() == Target::Relays => AT_ONCE,
        _ => lasting.max(AT_ONCE),
    }
}

/// The fault in whose course something happened: the one that began last.
fn cause(faults: &[Injected], at: Millis) -> Option<Kind> {
    let in_course = |fault: &&Injected| fault.began <= at && at <= fault.ended + AFTERMATH;
    faults.iter().rev().find(in_course).map(|fault| fault.kind)
}

/// The whole report; `summary.json` is this.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where pipelines led to.
    pub sink: &'static str,
    /// Names the run.
    pub seed: u64,
    /// How long faults were injected.
    pub minutes: f64,
    /// Deliveries due: committed messages, for each pipeline; and those in.
    pub messages: u64,
    /// Of these, messages of the way in.
    pub messages_in: u64,
    /// Faults injected.
    pub faults: usize,
    /// Never delivered, or in no row.
    pub lost: usize,
    /// Delivered again, or in a further row.
    pub doubled: usize,
    /// Delivered after a later one of their key.
    pub out_of_order: usize,
    /// Delivered and never committed.
    pub foreign: usize,
    /// From an owner's death (SIGKILL) to the first delivery after it.
    pub takeover_ms_p50: Option<Millis>,
    /// The same, the 99th percentile.
    pub takeover_ms_p99: Option<Millis>,
    /// The same, the longest.
    pub takeover_ms_max: Option<Millis>,
    /// From a silent cut of an owner to the first delivery after it.
    pub cut_takeover_ms_max: Option<Millis>,
    /// The longest pause when a relay was asked to end.
    pub graceful_pause_ms_max: Option<Millis>,
    /// The longest time without a message at any destination, whatever was
    /// broken then.
    pub longest_pause_ms: Millis,
    /// Load average of the machine at the beginning and at the end.
    pub load_average: [f64; 2],
    /// Figures by kind.
    pub by_kind: BTreeMap<Kind, KindFigures>,
    /// Whatever else is wrong.
    pub problems: Vec<String>,
}

/// What a run has found out.
pub struct Findings {
    /// Faults in the order of their beginnings.
    pub faults: Vec<Injected>,
    /// Of each forward pipeline.
    pub arrivals: Arrivals,
    /// On all forward pipelines.
    pub verdict: Verdict,
    /// On the way in.
    pub inbox: InboxVerdict,
    /// When each message of the way in was acknowledged.
    pub sent_at: HashMap<Sent, Millis>,
    /// Whatever else is wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// Sums up.
    pub fn new(
        sink: &'static str,
        seed: u64,
        minutes: f64,
        load_average: [f64; 2],
        findings: &Findings,
    ) -> Self {
        let Findings {
            faults,
            arrivals,
            verdict,
            inbox,
            problems,
            ..
        } = findings;
        let by_kind = by_kind(findings);
        let resumed = |kind| by_kind.get(&kind).map_or(&[][..], |f| f.resumed_ms.as_slice());
        let pauses = arrivals.values();
        Self {
            sink,
            seed,
            minutes,
            messages: verdict.messages + inbox.messages,
            messages_in: inbox.messages,
            faults: faults.len(),
            lost: verdict.lost.len() + inbox.lost.len(),
            doubled: verdict.doubled.len() + inbox.doubled.len(),
            out_of_order: verdict.out_of_order.len(),
            foreign: verdict.foreign.len() + inbox.foreign.len(),
            takeover_ms_p50: percentile(resumed(Kind::KillRelay), 50),
            takeover_ms_p99: percentile(resumed(Kind::KillRelay), 99),
            takeover_ms_max: resumed(Kind::KillRelay).last().copied(),
            cut_takeover_ms_max: resumed(Kind::CutRelay).last().copied(),
            graceful_pause_ms_max: by_kind.get(&Kind::StopRelay).map(|f| f.longest_pause_ms),
            longest_pause_ms: pauses
                .filter_map(|a| longest_pause(a, 0, Millis::MAX))
                .map(Pause::length)
                .max()
                .unwrap_or(0),
            load_average,
            problems: problems.iter().cloned().chain(in_words(inbox)).collect(),
            by_kind,
        }
    }

    /// Whether all is as promised.
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.out_of_order + self.foreign == 0 && self.problems.is_empty()
    }

    /// For the terminal.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<19}{:>6}{:>8}{:>9}{:>13}{:>13}{:>15}\n",
            "fault", "times", "lost", "doubled", "resumed p50", "resumed max", "longest pause"
        );
        for (kind, figures) in &self.by_kind {
            let _ = writeln!(
                text,
                "{:<19}{:>6}{:>8}{:>9}{:>13}{:>13}{:>15}",
                kind,
                figures.count,
                figures.lost,
                figures.doubled,
                in_ms(percentile(&figures.resumed_ms, 50)),
                in_ms(figures.resumed_ms.last().copied()),
                in_ms(Some(figures.longest_pause_ms).filter(|_| !figures.resumed_ms.is_empty())),
            );
        }
        let _ = write!(
            text,
            "\n{}: {} messages ({} of them in), {} faults in {:.1} minutes, seed {}\n\
             lost {}, doubled {}, out of order {}, never committed {}\n\
             takeover after SIGKILL: p50 {}, p99 {}, max {}; after a silent cut: max {}\n\
             longest pause: {} when a relay ends in order, {} in all\n\
             load average: {} at the beginning, {} at the end\n",
            self.sink,
            self.messages,
            self.messages_in,
            self.faults,
            self.minutes,
            self.seed,
            self.lost,
            self.doubled,
            self.out_of_order,
            self.foreign,
            in_ms(self.takeover_ms_p50),
            in_ms(self.takeover_ms_p99),
            in_ms(self.takeover_ms_max),
            in_ms(self.cut_takeover_ms_max),
            in_ms(self.graceful_pause_ms_max),
            in_ms(Some(self.longest_pause_ms)),
            self.load_average[0],
            self.load_average[1],
        );
        for problem in &self.problems {
            let _ = writeln!(text, "PROBLEM: {problem}");
        }
        text
    }
}

fn in_ms(value: Option<Millis>) -> String {
    value.map_or_else(|| "-".into(), |ms| format!("{ms} ms"))
}

/// How many there are, and the first of them; none when there is none.
fn found<T: std::fmt::Debug>(what: &str, all: &[T]) -> Option<String> {
    let first = all.first();
    first.map(|_| format!("{what}: {}, such as {first:?}", all.len()))
}

fn in_words(inbox: &InboxVerdict) -> impl Iterator<Item = String> {
    [
        found("inbox, messages without a row", &inbox.lost),
        found("inbox, messages in more than one row", &inbox.doubled),
        found(
            "inbox, rows of messages that the broker does not have",
            &inbox.foreign,
        ),
        found(
            "acknowledged messages that the broker lost",
            &inbox.lost_by_broker,
        ),
        found("inbox, gaps in the numbers", &inbox.gaps),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Id, Read};

    fn fault(kind: Kind, began: Millis, ended: Millis) -> Injected {
        Injected {
            kind,
            began,
            ended,
            pipelines: Vec::new(),
        }
    }

    fn arrivals(of: &[Millis]) -> Arrivals {
        Arrivals::from([("out0".to_owned(), of.to_vec())])
    }

    const READ: Read = Read {
        id: Id {
            transaction: 1,
            part: 0,
            index: 0,
        },
        key: 1,
        n: 1,
        at: 20_500,
        lane: 0,
    };

    fn findings(faults: &[Injected], arrivals: Arrivals) -> Findings {
        Findings {
            faults: faults.to_vec(),
            arrivals,
            verdict: Verdict::default(),
            inbox: InboxVerdict::default(),
            sent_at: HashMap::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_takeover_counts_only_when_nothing_else_is_broken() {
        let faults = [
            fault(Kind::KillPostgres, 0, 9_500),
            fault(Kind::KillRelay, 10_000, 11_000),
            fault(Kind::KillRelay, 20_000, 21_000),
        ];
        let arrivals = arrivals(&[9_990, 10_900, 19_995, 20_250, 20_260]);
        let figures = by_kind(&findings(&faults, arrivals));
        assert_eq!(figures[&Kind::KillRelay].count, 2);
        assert_eq!(figures[&Kind::KillRelay].resumed_ms, [250]);
    }

    #[test]
    fn the_pause_of_the_next_fault_is_not_this_ones() {
        let faults = [
            fault(Kind::Reconfigure, 10_000, 10_010),
            fault(Kind::KillBroker, 11_000, 15_000),
        ];
        let arrivals = arrivals(&[9_990, 10_050, 10_100, 10_690, 10_995, 15_100]);
        let figures = by_kind(&findings(&faults, arrivals));
        assert_eq!(figures[&Kind::Reconfigure].longest_pause_ms, 590);
    }

    #[test]
    fn what_is_doubled_or_lost_is_laid_to_the_last_fault() {
        let faults = [
            fault(Kind::KillBroker, 19_000, 20_400),
            fault(Kind::KillRelay, 20_000, 21_000),
        ];
        let mut findings = findings(&faults, arrivals(&[]));
        findings.verdict.doubled = vec![(READ.id, 20_500)];
        findings.verdict.lost = vec![Read { at: 19_500, ..READ }];
        findings.inbox.lost = vec![(1, 7)];
        findings.sent_at = HashMap::from([((1, 7), 19_600)]);
        let figures = by_kind(&findings);
        assert_eq!(figures[&Kind::KillRelay].doubled, 1);
        assert_eq!(figures[&Kind::KillBroker].lost, 2);
    }

    #[test]
    fn pipelines_of_other_relays_do_not_count() {
        let mut kill = fault(Kind::KillRelay, 1_000, 2_000);
        kill.pipelines = vec!["out1".into()];
        let figures = by_kind(&findings(&[kill], arrivals(&[900, 1_900])));
        assert!(figures[&Kind::KillRelay].resumed_ms.is_empty());
    }

    #[test]
    fn a_report_with_anything_wrong_is_not_clean() {
        let report = |verdict, inbox, problems| {
            let findings = Findings {
                verdict,
                inbox,
                problems,
                ..findings(&[], Arrivals::new())
            };
            Report::new("kafka", 1, 1.0, [0.0; 2], &findings).is_clean()
        };
        assert!(report(Verdict::default(), InboxVerdict::default(), Vec::new()));
        let doubled = Verdict {
            doubled: vec![(READ.id, 1)],
            ..Verdict::default()
        };
        assert!(!report(doubled, InboxVerdict::default(), Vec::new()));
        let gap = InboxVerdict {
            gaps: vec![3],
            ..InboxVerdict::default()
        };
        assert!(!report(Verdict::default(), gap, Vec::new()));
        assert!(!report(
            Verdict::default(),
            InboxVerdict::default(),
            vec!["x".into()]
        ));
    }
}
