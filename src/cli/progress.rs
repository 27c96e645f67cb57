//! How far long work is, for who waits for it at a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two looks; the end is always told.
const EVERY: Duration = Duration::from_millis(500);

/// Tells on stderr, where that is a terminal, how many of something are done, of how many.
pub fn progress(nouns: &'static str) -> impl FnMut(u64, u64) {
    let (is_terminal, mut last) = (io::stderr().is_terminal(), None::<Instant>);
    move |done, all| {
        if !is_terminal || done < all && last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        last = Some(Instant::now());
        let percent = (done * 100).checked_div(all).unwrap_or(100);
        let end = if done >= all { "\r\x1b[K" } else { "" };
        let _ = write!(io::stderr(), "\r\x1b[K{percent} % of {all} {nouns}{end}"); // nobody is told, and nothing is lost
    }
}
