//! `pg-tide status --watch`: the table, drawn over itself every second.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Arguments, Seen, look, view};
use crate::cli::output::{self, Format, shorten};
use crate::cli::{Ended, Outcome};
use crate::database::Session;

const EVERY: Duration = Duration::from_secs(1);
/// A look that takes longer is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Columns and lines of the terminal.
pub(super) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

pub(super) async fn run(arguments: &Arguments) -> Outcome {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let mut ends = Ends {
        interrupt: listen(SignalKind::interrupt())?,
        terminate: listen(SignalKind::terminate())?,
        hangup: listen(SignalKind::hangup())?,
    };
    let mut resized = listen(SignalKind::window_change())?;
    let mut watcher = Watcher {
        arguments,
        session: None,
        seen: None,
        screen: std::io::stdout().is_terminal().then(Screen::default),
        text: Vec::new(),
    };
    // A first failure is one of the command: a wrong URL, say.
    tokio::select! {
        first = watcher.look() => first?,
        () = ends.any() => return Ok(Ended::Well),
    }
    loop {
        watcher.show()?;
        tokio::select! {
            () = ends.any() => break,
            _ = resized.recv(), if watcher.screen.is_some() => {}
            () = tokio::time::sleep(EVERY) => {
                tokio::select! {
                    () = ends.any() => break,
                    looked = watcher.look() => if let Err(error) = looked {
                        watcher.lost(&error);
                    }
                }
            }
        }
    }
    Ok(Ended::Well)
}

struct Ends {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Ends {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

struct Watcher<'a> {
    arguments: &'a Arguments,
    session: Option<Session>,
    seen: Option<Seen>,
    screen: Option<Screen>,
    /// What is to be shown when nothing could be read.
    text: Vec<String>,
}

impl Watcher<'_> {
    async fn look(&mut self) -> Result<(), String> {
        let session = match self.session.take() {
            Some(session) if !session.client.is_closed() => session,
            _ => self.arguments.postgres.connect().await?,
        };
        let looking = look(&session, self.arguments.pipeline.as_deref());
        let seen = tokio::time::timeout(TIMEOUT, looking)
            .await
            .map_err(|_| "no answer in time".to_owned())??;
        self.session = Some(session);
        self.seen = Some(seen);
        self.text.clear();
        Ok(())
    }

    /// The database may come back: go on.
    fn lost(&mut self, error: &str) {
        self.seen = None;
        self.text = vec![format!("{error}; trying again")];
    }

    fn show(&mut self) -> Result<(), String> {
        match (&self.seen, self.arguments.output.format) {
            (Some(seen), Format::Json) => output::print(&seen.json()),
            (None, Format::Json) => {
                eprintln!("pg-tide: {}", self.text.join(" "));
                Ok(())
            }
            (_, Format::Text) => {
                let size = self.screen.as_ref().map(|_| size());
                let lines = self.seen.as_ref().map_or_else(
                    || self.text.clone(),
                    |seen| view::lines(&seen.pipelines, size.map(|s| s.0)),
                );
                match (&mut self.screen, size) {
                    (Some(screen), Some(size)) => output::print(&screen.frame(lines, size)),
                    _ => output::print(&(lines.join("\n") + "\n\n")),
                }
            }
        }
    }
}

/// What stands on the terminal.
#[derive(Debug, Default)]
struct Screen {
    lines: usize,
    size: (usize, usize),
}

impl Screen {
    /// What to write so that these lines stand where the last ones stood.
    fn frame(&mut self, mut lines: Vec<String>, size: (usize, usize)) -> String {
        let (width, height) = size;
        let room = height.saturating_sub(1).max(2);
        if lines.len() > room {
            let hidden = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!(
                "... {hidden} more lines; a larger window or --pipeline shows them"
            ));
        }
        let mut text = String::new();
        if self.lines > 0 && self.size != size {
            // Lines may have been broken anew: nobody knows where they begin.
            text.push_str("\x1b[2J\x1b[H");
        } else if self.lines > 0 {
            let _ = write!(text, "\x1b[{}A", self.lines);
        }
        for line in &lines {
            text.push('\r');
            text.push_str(&shorten(line, width));
            // The rest of what stood in this line.
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.lines = lines.len();
        self.size = size;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("line {n}")).collect()
    }

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let mut screen = Screen::default();
        assert_eq!(screen.frame(lines(1), (80, 24)), "\rline 0\x1b[K\n\x1b[J");
        assert!(screen.frame(lines(3), (80, 24)).starts_with("\x1b[1A\rline 0"));
        assert!(screen.frame(lines(1), (80, 24)).starts_with("\x1b[3A\rline 0"));
        assert!(
            screen
                .frame(lines(1), (60, 24))
                .starts_with("\x1b[2J\x1b[H\rline 0")
        );
    }

    #[test]
    fn a_frame_is_no_higher_than_the_terminal() {
        let mut screen = Screen::default();
        let frame = screen.frame(lines(50), (80, 10));
        assert_eq!(frame.matches('\n').count(), 9);
        assert!(frame.contains("line 7") && !frame.contains("line 8"));
        assert!(frame.contains("... 42 more lines"));
    }
}
