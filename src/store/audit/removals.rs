//! Leaves whose salts were destroyed, and the acts that say so: what is gone went by an act that may do so, before its end, and nothing
//! else is.

use rusqlite::Row;

use super::{CLOCK_SET_BACK_MS, Walk};
use crate::store::Error;
use crate::store::seal::destroyed::unpacked;
use crate::store::seal::{
    ACCOUNTS, ACTS, ATTRIBUTES, CHATS, COVERAGE, ERASURES, ERRORS, EVENTS, FILES, FINDINGS, Form, HOLDS, KeyValue,
    MASKINGS, VARIANTS, row_name,
};

impl Walk<'_> {
    /// What the acts say was erased. Their rows are held against their own leaves, as all are.
    pub(super) fn read_erasures(&mut self) -> Result<(), Error> {
        if !self.forms.contains(&ERASURES) || !self.forms.contains(&ACTS) {
            return Ok(());
        }
        // A release that did not tell them apart let a purge erase released holds, which are of no chat.
        let sql = "SELECT e.id, CAST(e.leaves AS BLOB), e.how = 'masked', coalesce(CASE e.how
                WHEN 'erased' THEN a.kind = 'erase' OR a.kind = 'purge' AND e.chat_id IS NULL
                WHEN 'purged' THEN a.kind = 'purge' ELSE a.kind IN ('mask', 'erase', 'purge') END, 0)
                OR length(e.leaves) = 0 AND a.kind = 'merge', CAST(e.chat_id AS TEXT), a.id, CAST(e.rows AS INTEGER)
            FROM erasures e NOT INDEXED LEFT JOIN acts a ON a.id = e.act_id";
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (id, is_masked, has_act): (i64, bool, bool) = (row.get(0)?, row.get(2)?, row.get(3)?);
            if !has_act {
                let what = "there is no act that would have removed that: somebody put it there";
                self.found.faults.add(format!("erasures, id {id}"), what);
            }
            let chat_id: Option<String> = row.get(4)?;
            self.acts.extend(row.get::<_, Option<i64>>(5)?.map(|act_id| (act_id, 0)));
            let (rows_told, mut bytes_read): (i64, u64) = (row.get(6)?, 0);
            for leaf in unpacked(row.get_ref(1)?.as_blob().unwrap_or_default()) {
                bytes_read += 1;
                self.erased.set(leaf.cast_signed(), &[], false);
                self.chats.set(leaf, chat_id.as_deref());
                if is_masked {
                    self.masked_leaves.set(leaf.cast_signed(), &[], true);
                }
            }
            self.found.erased += bytes_read;
            // Each row has a leaf or more; a merge brings the word of another archive, and no leaves.
            let may_be = rows_told.cast_unsigned() <= bytes_read && (rows_told == 0) == (bytes_read == 0);
            if !may_be {
                let what = format!("it says that {rows_told} rows went, and names {bytes_read} of their leaves");
                self.found.faults.add(format!("erasures, id {id}"), what);
            }
        }
        let sql = "SELECT count(DISTINCT CASE WHEN how <> 'masked' THEN chat_id END), count(DISTINCT act_id),
            count(DISTINCT CASE WHEN how = 'masked' THEN chat_id END) FROM erasures";
        let read = |row: &Row<'_>| Ok(((row.get(0)?, row.get(1)?), row.get(2)?));
        (self.found.removals, self.found.masked_chats) = self.connection.query_row(sql, (), read)?;
        self.found.is_unclean = self.connection.prepare("SELECT 1 FROM uncleaned")?.exists(())?;
        Ok(())
    }

    /// A leaf whose salt was destroyed: nothing can be held against it any longer, nor against what was sealed of the row
    /// before.
    pub(super) fn destroyed(&mut self, form: &'static Form, key: &[KeyValue], leaf: i64, rowid: Option<i64>) {
        let (is_said, _) = self.erased.of(leaf, &[]);
        if !is_said {
            self.found.faults.add(row_name(form, key), "its salt was destroyed, and no act says by whom and why");
            return;
        }
        self.erased.set(leaf, &[], true);
        if let ("chat_id", KeyValue::Text(chat_id)) = (form.key[0].0, &key[0])
            && !self.chats.are(leaf.cast_unsigned(), chat_id)
        {
            let what = "its salt was destroyed, and the act that says so says it of another chat, or of none";
            self.found.faults.add(row_name(form, key), what);
        }
        if let (HOLDS, [KeyValue::Integer(id)]) = (form.number, key) {
            *self.holds.entry(*id).or_default() += 1;
        }
        let is_masked = self.masked_leaves.of(leaf, &[]).0;
        let may_be = match form.whole().unwrap_or(form).number {
            // What was typed is not in a core.
            HOLDS if form.whole().is_some() => !is_masked,
            ACTS if form.whole().is_some() => false,
            EVENTS | VARIANTS | ATTRIBUTES | ERRORS | FINDINGS | HOLDS => true,
            CHATS | COVERAGE | MASKINGS | FILES => !is_masked,
            ACTS => is_masked,
            _ => false,
        };
        if !may_be {
            self.found
                .faults
                .add(row_name(form, key), "its salt was destroyed, and no act of gms-recorder does that to such a row");
        }
        match is_masked {
            // A variant's key is of its content, and is another one then.
            true if form.number != VARIANTS => drop(self.masked.insert((form.number, key.to_vec()))),
            true => {}
            false => drop(self.masked.remove(&(form.number, key.to_vec()))),
        }
        if let Some(rowid) = rowid {
            self.marks[form.place()].forget(rowid, key);
            self.before.remove(&(form.number, rowid));
        }
    }

    pub(super) fn check_erasures(&mut self) -> Result<(), Error> {
        for (number, key) in std::mem::take(&mut self.masked) {
            let form = Form::of(number).expect("read by its form");
            let what =
                "an act says that it was masked, and it was not sealed anew after that: it was removed, or put there";
            self.found.faults.add(row_name(form, &key), what);
        }
        self.check_acts()?;
        self.check_gone()?;
        let sql = "SELECT 1 FROM late_sealing WHERE NOT EXISTS (SELECT 1 FROM runs WHERE sealing = 'pending')";
        if self.connection.prepare(sql)?.exists(())? {
            let what = "no run is waiting to be sealed later: somebody would have rows sealed anew";
            self.found.faults.add("late_sealing", what);
        }
        for leaf in self.erased.unfit() {
            let what =
                "an act says that it was erased, and its salt is there still: somebody put the act or the salt there";
            self.found.faults.add(format!("leaf {leaf}"), what);
        }
        Ok(())
    }

    /// What was erased of a chat does not come again, and nothing is suppressed before anything was erased.
    fn check_gone(&mut self) -> Result<(), Error> {
        if !self.forms.contains(&ERASURES) {
            return Ok(());
        }
        let sql = "SELECT CAST(e.chat_id AS TEXT), CAST(e.event_index AS INTEGER) FROM (SELECT chat_id, max(below) AS below FROM erasures
                WHERE how <> 'masked' AND below IS NOT NULL AND length(leaves) > 0 GROUP BY chat_id) x
            CROSS JOIN events e ON e.chat_id = x.chat_id AND e.event_index < x.below";
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (chat_id, index): (String, i64) = (row.get(0)?, row.get(1)?);
            let what = "an act says that it was removed, and what is delivered again of that is not recorded: somebody put it there";
            self.found.faults.add(format!("events, chat_id {chat_id:?}, event_index {index}"), what);
        }
        if !self.forms.contains(&ACCOUNTS) {
            return Ok(());
        }
        let is_own = if self.has_merges { "run_id NOT IN (SELECT id FROM merged_rows WHERE form = 9)" } else { "1" };
        let sql = format!(
            "SELECT run_id, hour, suppressed FROM accounts a WHERE suppressed > 0 AND {is_own} AND NOT EXISTS (
                SELECT 1 FROM erasures WHERE below IS NOT NULL AND at <= a.at + {CLOCK_SET_BACK_MS})"
        );
        let mut select = self.connection.prepare(&sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (run_id, hour, suppressed): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let what = format!(
                "{suppressed} events were suppressed as erased, and nothing had been erased by then: somebody put an erasure there for a while"
            );
            self.found.faults.add(format!("accounts, run_id {run_id}, hour {hour}"), what);
        }
        Ok(())
    }

    /// What was removed by an act was removed before its end, and its end says how much that was: who would remove something
    /// later in the name of an act that was, changes it.
    fn check_acts(&mut self) -> Result<(), Error> {
        if !self.forms.contains(&ERASURES) || !self.forms.contains(&ACTS) {
            return Ok(());
        }
        let sql = "SELECT e.id, e.act_id FROM erasures e JOIN acts a ON a.id = e.act_id WHERE a.ended_at IS NOT NULL";
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (id, act_id): (i64, i64) = (row.get(0)?, row.get(1)?);
            if let (Some(pack), Some(end)) = (self.erasures.get(&id), self.acts.get(&act_id))
                && pack > end
            {
                let what = format!("act {act_id}, which it names, had ended by then: somebody put it there");
                self.found.faults.add(format!("erasures, id {id}"), what);
            }
        }
        for (table, sql, what) in [
            (
                "holds",
                "SELECT h.id FROM holds h WHERE h.released_at IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM acts a WHERE a.id = h.released_by AND a.kind = 'unhold')",
                "it is said to be released, and no act has done that",
            ),
            (
                "waiting_erasures",
                "SELECT w.id FROM waiting_erasures w WHERE w.done_by IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM acts a WHERE a.id = w.done_by AND a.kind IN ('erase', 'purge'))",
                "it is said to be done, and no act has done that",
            ),
        ] {
            let mut select = self.connection.prepare(sql)?;
            for id in select.query_map((), |row| row.get::<_, i64>(0))? {
                self.found.faults.add(format!("{table}, id {}", id?), what);
            }
        }
        for (id, leaves) in std::mem::take(&mut self.holds) {
            let is_here = "SELECT 1 FROM holds WHERE id = ?";
            if leaves < 2 && !self.connection.prepare_cached(is_here)?.exists([id])? {
                self.found.faults.add(format!("holds, id {id}"), "it was removed, and had never been released");
            }
        }
        // One that was killed counts nothing.
        let sql = "SELECT a.id, a.found, coalesce(sum(e.rows), 0) FROM acts a LEFT JOIN erasures e ON e.act_id = a.id
                AND (a.kind = 'erase' AND e.how = 'erased' AND e.chat_id IS NOT NULL OR a.kind = 'purge' AND e.how = 'purged')
            WHERE a.kind IN ('erase', 'purge') AND a.found IS NOT NULL GROUP BY a.id HAVING a.found <> coalesce(sum(e.rows), 0)";
        let mut select = self.connection.prepare(sql)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (id, told, found): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let what = format!("it says that it removed {told} rows, and {found} are said to be removed by it");
            self.found.faults.add(format!("acts, id {id}"), what);
        }
        let sql =
            "SELECT id FROM acts WHERE kind IN ('erase', 'purge', 'mask', 'merge') AND ended_at IS NULL ORDER BY id";
        let mut select = self.connection.prepare(sql)?;
        self.found.open_acts = select.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(())
    }
}
