//! The account of a run by the hour: what was seen, and what became of it, for those who ask of a past month.
//!
//! It is told totals since the process began, and writes differences: whatever is written twice, or again after a commit whose
//! end was not seen, comes to the same rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::Error;
use super::seal::{self, KeyValue, Pack};
use crate::telemetry::metrics::Account;

const HOUR_MS: i64 = 3_600_000;
/// Rows are written so far apart: each time is a leaf of the tree.
const STEP_MS: i64 = 10_000;

/// The numbers of an account, in the order of its columns.
type Numbers = [i64; 10];

/// What is written of the account of a run.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// What the process had counted when the run began: that is another file's.
    before: Numbers,
    /// The rows of the run, by the hour: what is in the file is not asked, but once where the run goes on.
    hours: BTreeMap<i64, Numbers>,
    /// The hour last written, and what its row is reckoned from.
    hour: Option<Hour>,
    /// The totals last written, and when they were so.
    written: Numbers,
    written_at: Option<i64>,
    /// When the totals that are not written yet were so, and they.
    told: Option<(i64, Numbers)>,
}

#[derive(Debug, Clone, Copy)]
struct Hour {
    began: i64,
    base: Numbers,
}

impl Accounts {
    /// Reckons from these totals on: of a run that begins while its process goes on.
    pub(super) fn begin(&mut self, account: &Account) {
        self.before = numbers(account);
        self.written = self.before;
    }

    /// Goes on with a run.
    pub(super) fn resume(&mut self, connection: &Connection, run_id: i64) -> Result<(), Error> {
        let columns =
            "seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, delivered_early";
        let integers =
            columns.split(", ").map(|name| format!("CAST({name} AS INTEGER)")).collect::<Vec<_>>().join(", ");
        let mut select = connection.prepare(&format!("SELECT hour, {integers} FROM accounts WHERE run_id = ?"))?;
        let read = |row: &rusqlite::Row<'_>| {
            let mut numbers = Numbers::default();
            for (at, number) in numbers.iter_mut().enumerate() {
                *number = row.get(at + 1)?;
            }
            Ok((row.get(0)?, numbers))
        };
        self.hours = select.query_map([run_id], read)?.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What the other hours have, those of the run's future too: a clock may be put back.
    fn others(&self, hour: i64) -> Numbers {
        self.hours.iter().filter(|(began, _)| **began != hour).fold([0; 10], |all, (_, numbers)| sum(all, *numbers))
    }

    /// Takes the totals at a moment, where they are news, and it is time for some or for the last ones.
    pub(super) fn tell(&mut self, at: i64, account: &Account, is_last: bool) {
        let totals = numbers(account);
        // A clock that was put back makes it time.
        let is_early = self.written_at.is_some_and(|then| (0..STEP_MS).contains(&(at - then)));
        let is_news = totals != self.written && (is_last || !is_early);
        let is_of_another_hour = self.hour.is_none_or(|hour| hour.began != hour_of(at));
        self.told = (is_news || is_of_another_hour).then_some((at, totals));
    }

    /// Whether anything waits to be written.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Of when that is, milliseconds since the epoch.
    pub(super) fn told_at(&self) -> Option<i64> {
        self.told.map(|(at, _)| at)
    }

    /// Writes what was told. For [`Accounts::written`], once it is committed.
    pub(super) fn write(
        &self,
        connection: &Connection,
        pack: &mut Pack,
        run_id: i64,
    ) -> Result<Option<Written>, Error> {
        let Some((at, totals)) = self.told else { return Ok(None) };
        let began = hour_of(at);
        let hour = match self.hour.filter(|hour| hour.began == began) {
            Some(hour) => hour,
            None => Hour { began, base: sum(self.before, self.others(began)) },
        };
        let upsert =
            "INSERT INTO accounts (run_id, hour, at, seen, new, duplicate, variant, finding, suppressed, refused,
                dropped, in_flight, delivered_early) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (run_id, hour) DO UPDATE SET at = excluded.at, seen = excluded.seen, new = excluded.new,
                duplicate = excluded.duplicate, variant = excluded.variant, finding = excluded.finding,
                suppressed = excluded.suppressed, refused = excluded.refused, dropped = excluded.dropped,
                in_flight = excluded.in_flight, delivered_early = excluded.delivered_early";
        let numbers = sum(totals, hour.base.map(i64::saturating_neg));
        let [seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, early] = numbers;
        connection.prepare_cached(upsert)?.execute(params![
            run_id, began, at, seen, new, duplicate, variant, finding, suppressed, refused, dropped, in_flight, early
        ])?;
        pack.touch(seal::ACCOUNTS, [KeyValue::Integer(run_id), KeyValue::Integer(began)]);
        Ok(Some(Written { hour, numbers, totals, at }))
    }

    /// What was written is on disk.
    pub(super) fn take_over(&mut self, written: Option<Written>) {
        let Some(Written { hour, numbers, totals, at }) = written else { return };
        self.hours.insert(hour.began, numbers);
        (self.hour, self.written, self.written_at, self.told) = (Some(hour), totals, Some(at), None);
    }
}

/// What a transaction has written.
#[derive(Debug)]
pub(super) struct Written {
    hour: Hour,
    numbers: Numbers,
    totals: Numbers,
    at: i64,
}

fn hour_of(at: i64) -> i64 {
    at - at.rem_euclid(HOUR_MS)
}

fn numbers(account: &Account) -> Numbers {
    account.numbers().map(u64::cast_signed)
}

fn sum(one: Numbers, other: Numbers) -> Numbers {
    std::array::from_fn(|at| one[at].saturating_add(other[at]))
}

#[cfg(test)]
mod tests {
    use crate::store::{Options, Run, Store};
    use crate::telemetry::metrics::Account;

    use super::HOUR_MS;

    fn account(seen: u64, new: u64, in_flight: u64) -> Account {
        Account { seen, new, in_flight, ..Account::default() }
    }

    fn rows(store: &Store) -> Vec<String> {
        let sql = "SELECT printf('%d %d: %d %d %d', hour / 3600000, at - hour, seen, new, in_flight) FROM accounts ORDER BY run_id, hour";
        store.texts(sql)
    }

    fn write(store: &mut Store, at: i64, account: &Account) {
        store.tell_account(at, account, true);
        store.write_account().expect("written");
    }

    #[tokio::test]
    async fn each_hour_has_what_it_brought_also_when_the_file_is_opened_anew_or_the_clock_is_put_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options::plain(folder.path().join("a.db"));
        let mut store = Store::open(&options, &Run::plain()).await.expect("an archive");
        write(&mut store, 5, &account(0, 0, 0));
        assert_eq!(rows(&store), ["0 5: 0 0 0"], "it was there, and saw nothing");
        write(&mut store, 7, &account(3, 1, 2));
        store.tell_account(8, &account(3, 1, 2), true);
        assert!(!store.accounts.is_told(), "it is no news");
        store.tell_account(7 + 9_999, &account(4, 1, 3), false);
        assert!(!store.accounts.is_told(), "it is news, and goes with the next");
        store.tell_account(7 + 10_000, &account(4, 1, 3), false);
        assert!(store.accounts.is_told());
        write(&mut store, HOUR_MS + 1, &account(5, 5, 0));
        assert_eq!(rows(&store), ["0 7: 3 1 2", "1 1: 2 4 -2"]);

        let resumes = Some(store.resumable());
        store.close().expect("closed");
        let mut store = Store::open(&options, &Run { resumes, ..Run::plain() }).await.expect("the same");
        write(&mut store, HOUR_MS + 2, &account(6, 6, 0));
        assert_eq!(rows(&store), ["0 7: 3 1 2", "1 2: 3 5 -2"], "the same hour goes on");
        write(&mut store, 9, &account(7, 7, 0));
        assert_eq!(rows(&store), ["0 9: 4 2 2", "1 2: 3 5 -2"]);

        store.close().expect("closed");
        let mut store = Store::open(&options, &Run::plain()).await.expect("the same");
        store.begin_account(&account(7, 7, 0));
        write(&mut store, 10, &account(8, 7, 1));
        assert_eq!(rows(&store)[2..], ["0 10: 1 0 1"], "another run of the same process");
    }

    #[tokio::test]
    async fn what_is_not_committed_is_not_taken_for_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(&Options::plain(folder.path().join("a.db")), &Run::plain()).await.expect("one");
        store.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON accounts BEGIN SELECT raise(FAIL, 'no'); END");
        store.tell_account(1, &account(1, 1, 0), false);
        store.append(&[], &[], true).expect_err("refused");
        store.execute("DROP TRIGGER no");
        store.append(&[], &[], false).expect("it waits for a whole one");
        assert!(rows(&store).is_empty());
        store.append(&[], &[], true).expect("written");
        assert_eq!(rows(&store), ["0 1: 1 1 0"]);
    }
}
