//! For people: quantities in few characters.

/// `1.5 GB` and the like; powers of 1024, as PostgreSQL has them.
pub(crate) fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 || amount.abs() >= 100.0 {
        format!("{amount:.0} {}", UNITS[unit])
    } else {
        format!("{amount:.1} {}", UNITS[unit])
    }
}

/// `45s`, `12m`, `5h`, `3d`.
pub(crate) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    for (length, unit) in [(86_400.0, "d"), (3_600.0, "h"), (60.0, "m")] {
        if seconds >= 2.0 * length || unit == "m" && seconds >= 90.0 {
            return format!("{:.0}{unit}", (seconds / length).floor());
        }
    }
    format!("{seconds:.0}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_short() {
        for (seconds, want) in [
            (0.2, "0s"),
            (89.0, "89s"),
            (90.0, "1m"),
            (7_199.0, "119m"),
            (7_200.0, "2h"),
            (172_800.0, "2d"),
            (-5.0, "0s"),
        ] {
            assert_eq!(age(seconds), want);
        }
        for (size, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 kB"),
            (300 * 1024 * 1024, "300 MB"),
        ] {
            assert_eq!(bytes(size), want);
        }
    }
}
