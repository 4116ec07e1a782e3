//! Waiting for conditions, and names that nobody else uses.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests of one program that measure hold it alone; the others share it.
static MACHINE: RwLock<()> = RwLock::const_new(());

const INTERVAL: Duration = Duration::from_millis(15);

/// Asks again and again until there is an answer, or the time is over.
pub async fn answer<T>(within: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return Some(answer);
        }
        if began.elapsed() >= within {
            return None;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks again and again until there is an answer. Panics when there is none
/// within the time, saying `what` was awaited.
pub async fn await_condition<T>(within: Duration, what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    answer(within, probe)
        .await
        .unwrap_or_else(|| panic!("not within {within:?}: {what}"))
}

/// Asks for the whole time and panics when the condition does not hold even
/// once: for what must not happen meanwhile.
pub async fn holds(during: Duration, what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while began.elapsed() < during {
        assert!(probe().await, "no longer after {:?}: {what}", began.elapsed());
        tokio::time::sleep(INTERVAL).await;
    }
}

/// For a test that measures: waits until no other test of the same program
/// runs, and holds the others off. They must call [`beside_others`].
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// For a test that runs beside others of the same program.
pub async fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// A name that begins with `stem` and belongs to the caller alone. Made of
/// lower-case letters, digits and `_`: it suits databases, topics, subjects
/// and streams.
pub fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}_{:x}_{:x}_{count}", now.as_millis(), std::process::id())
}
