//! What the figures were measured on, and how busy it was: the load of others makes figures worth little.

use std::num::NonZero;

use serde::Serialize;

/// The machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    cores: usize,
    /// The processor's model.
    cpu: String,
    /// The kernel's release.
    kernel: String,
    /// The machine's memory.
    memory_gib: f64,
}

/// How busy the machine was before one run of a measurement.
#[derive(Debug, Serialize)]
pub struct Load {
    /// The figures that were measured then.
    pub measurement: String,
    /// Which run, from 0.
    pub run: usize,
    /// Processes that ran or wanted to, on average over the last minute: also those of the measurement before.
    pub average: f64,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, NonZero::get),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: kib(&read("/proc/meminfo"), "MemTotal") / 1024.0 / 1024.0,
        }
    }

    /// For the end of the report.
    pub fn text(&self, before: f64, loads: &[Load]) -> String {
        let averages = loads.iter().map(|load| load.average);
        let most = averages.clone().fold(f64::NEG_INFINITY, f64::max);
        let least = averages.fold(f64::INFINITY, f64::min);
        let each = if loads.is_empty() {
            String::new()
        } else {
            format!(", before each measurement: {least:.2} .. {most:.2}")
        };
        format!(
            "{} cores, {}, {:.0} GiB, Linux {}; load average before the start: {before:.2}{each}",
            self.cores, self.cpu, self.memory_gib, self.kernel
        )
    }
}

impl Load {
    /// At this moment.
    pub fn before(measurement: &str, run: usize) -> Self {
        Self {
            measurement: measurement.to_owned(),
            run,
            average: average(),
        }
    }
}

/// The load average over one minute.
pub fn average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// The first value of a `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn kib(text: &str, name: &str) -> f64 {
    let value = field(text, name).unwrap_or_default();
    let number = value.split_whitespace().next();
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_what_the_kernel_tells() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU @ 2.0GHz\n\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("A CPU @ 2.0GHz"));
        assert_eq!(field(cpuinfo, "flags"), None);
        assert!((kib("MemTotal:       2048 kB\n", "MemTotal") - 2048.0).abs() < 1e-9);
    }

    #[test]
    fn the_text_has_the_range_of_loads() {
        let load = |average| Load {
            measurement: "drain.kafka".to_owned(),
            run: 0,
            average,
        };
        let text = Machine::this().text(0.5, &[load(2.0), load(1.0)]);
        assert!(
            text.ends_with("start: 0.50, before each measurement: 1.00 .. 2.00"),
            "{text}"
        );
        assert!(Machine::this().text(0.5, &[]).ends_with("start: 0.50"));
    }
}
