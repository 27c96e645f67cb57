//! How the file itself is made: tables, indexes, views and triggers, held against what the migrations make. Whoever reads or changes
//! rows by something else is deceived, or deceives.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Row};

use super::Walk;
use crate::store::seal::{FORMS, Form, MERGES, RUNS};
use crate::store::{Error, MIGRATIONS, shadows};

impl Walk<'_> {
    /// What others understand the file by, and what changes rows behind our back.
    pub(super) fn check_schema(&mut self) -> Result<(), Error> {
        let faults = &mut self.found.faults;
        // SQLite itself takes these words in whatever case.
        let sql = "SELECT CAST(type AS TEXT), CAST(name AS TEXT) FROM sqlite_schema WHERE type NOT IN ('table', 'index', 'view')";
        let mut others = self.connection.prepare(sql)?;
        for found in others.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))? {
            let (kind, name) = found?;
            faults.add(format!("{kind} {name}"), "gms-recorder makes none: somebody changes rows by it");
        }
        // What is asked below would be asked of it: SQLite finds such a table before its own.
        for name in shadows(self.connection)? {
            faults.add(format!("table {name}"), "gms-recorder makes none such: somebody has questions answered by it");
        }
        let applied = applied(self.connection)?;
        let faults = &mut self.found.faults;
        self.has_merges = self.forms.contains(&MERGES);
        let newest = applied.last().copied().unwrap_or_default();
        let is_ours = |version: &i64| MIGRATIONS.iter().any(|(ours, ..)| ours == version);
        let by_tables = FORMS.iter().filter(|form| self.forms.contains(&form.number)).map(Form::since).max();
        let newest = newest.max(by_tables.unwrap_or_default());
        for version in (1..=newest).filter(|version| is_ours(version) && !applied.contains(version)) {
            let what = "it is gone, and what it makes or later ones are there";
            faults.add(format!("_sqlx_migrations, version {version}"), what);
        }
        for version in applied.iter().filter(|version| **version < 1) {
            faults.add(format!("_sqlx_migrations, version {version}"), "no release has such a one");
        }
        for form in FORMS.iter().filter(|form| applied.contains(&form.since()) && !self.forms.contains(&form.number)) {
            match form.whole() {
                None => faults.add(format!("table {}", form.table), "it was dropped, with everything in it"),
                Some(whole) if self.forms.contains(&whole.number) => {
                    faults.add(format!("sealed_forms, form {}", form.number), "it was deleted");
                }
                Some(_) => {}
            }
        }
        for form in FORMS.iter().filter(|form| self.forms.contains(&form.number)) {
            let key: Vec<&str> = form.key.iter().map(|column| column.0).collect();
            let wanted = (form.table.to_owned(), key.join(","), form.columns.join(","));
            let sql =
                "SELECT CAST(tbl AS TEXT), CAST(key AS TEXT), CAST(columns AS TEXT) FROM sealed_forms WHERE form = ?";
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let found: Result<(String, String, String), _> = self.connection.query_row(sql, [form.number], read);
            if found.as_ref().ok() != Some(&wanted) {
                faults.add(format!("sealed_forms, form {}", form.number), "it was changed");
            }
        }
        self.check_names()
    }

    /// A row is told from others by its rowid, which a column of that name would hide; or where there is none by its key, which
    /// is that of its table. Whatever release has made them.
    fn check_names(&mut self) -> Result<(), Error> {
        let sql = "SELECT 1 FROM pragma_table_xinfo(?) WHERE lower(name) IN ('rowid', '_rowid_', 'oid')";
        let mut hides = self.connection.prepare(sql)?;
        for form in FORMS.iter().filter(|form| self.forms.contains(&form.number)) {
            if hides.exists([form.table])? {
                let what = "a column of it has the name of the rowid: rows are not told apart by it any longer";
                self.found.faults.add(format!("table {}", form.table), what);
            }
        }
        let mut key_of = self.connection.prepare("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk")?;
        for form in FORMS.iter().filter(|form| self.forms.contains(&form.number) && !form.has_rowid()) {
            let key: Vec<String> = key_of.query_map([form.table], |row| row.get(0))?.collect::<Result<_, _>>()?;
            if !form.key.iter().map(|column| column.0).eq(&key) {
                let what = "its key is another one: rows are not told apart by what is sealed of it";
                self.found.faults.add(format!("table {}", form.table), what);
            }
        }
        let trees: i64 = self.connection.query_row("SELECT count(*) FROM tree", (), |row| row.get(0))?;
        if trees > 1 {
            self.found.faults.add("tree", "it has more than one row: somebody put one there");
        }
        Ok(())
    }

    /// Tables and indexes that are not made as ours hold other rows than they seem to; a view that shows something else than the
    /// tables hold deceives whoever reads by it. Others beside them are nobody's fault, but for views.
    pub(super) fn check_definitions(&mut self) -> Result<(), Error> {
        let applied = applied(self.connection)?;
        if let Some(version) = unknown(&applied) {
            if self.has_newer_run()? {
                self.found.has_unknown_views = true;
                return Ok(());
            }
            let what =
                "only a newer release would have applied it, and none has ever recorded here: somebody put it there";
            self.found.faults.add(format!("_sqlx_migrations, version {version}"), what);
        }
        for Difference { kind, name, what, is_gone } in differences(self.connection, &applied)? {
            let is_told = kind == "table" && is_gone && FORMS.iter().any(|form| form.table == name);
            if !is_told {
                self.found.faults.add(format!("{kind} {name}"), what);
            }
        }
        Ok(())
    }

    /// Whoever migrates an archive begins a run in it, and seals that.
    fn has_newer_run(&mut self) -> Result<bool, Error> {
        let mut select = self.connection.prepare("SELECT run_id, CAST(version AS TEXT) FROM runs")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (run_id, version): (i64, String) = (row.get(0)?, row.get(1)?);
            let (_, fits) = self.marks[usize::from(RUNS) - 1].of(run_id, &[]);
            if is_newer(&version) && fits && self.cored_runs.contains(&run_id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The migrations, by their numbers.
fn applied(connection: &Connection) -> Result<Vec<i64>, Error> {
    let mut select = connection.prepare("SELECT version FROM _sqlx_migrations ORDER BY version")?;
    Ok(select.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// One that only a newer release may have applied.
fn unknown(applied: &[i64]) -> Option<&i64> {
    applied.iter().find(|version| **version > 0 && MIGRATIONS.iter().all(|(ours, ..)| ours != *version))
}

/// What is not made as the migrations make it; nothing where a newer release may have made it.
pub(in crate::store) fn altered(connection: &Connection) -> Result<Vec<String>, Error> {
    let applied = applied(connection)?;
    if unknown(&applied).is_some() {
        return Ok(Vec::new());
    }
    let differences = differences(connection, &applied)?;
    Ok(differences.into_iter().map(|Difference { kind, name, what, .. }| format!("{kind} {name}: {what}")).collect())
}

struct Difference {
    kind: String,
    name: String,
    what: &'static str,
    is_gone: bool,
}

fn differences(connection: &Connection, applied: &[i64]) -> Result<Vec<Difference>, Error> {
    let model = Connection::open_in_memory()?;
    let of_then = MIGRATIONS.iter().filter(|(version, ..)| applied.contains(version));
    model.execute_batch(&of_then.map(|(_, _, sql)| *sql).collect::<String>())?;
    let (found, wanted) = (definitions(connection)?, definitions(&model)?);
    // What has the name of one of ours, and is of another kind, is read in its place.
    let wanted_names: BTreeSet<&String> = wanted.keys().map(|(_, name)| name).collect();
    // Indexes on our tables, by whomever.
    let ours = |table: &str| wanted.keys().any(|(kind, name)| kind == "table" && name.eq_ignore_ascii_case(table));
    let mut select = connection.prepare("SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index'")?;
    let indexes = select.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let indexes = indexes.collect::<Result<Vec<_>, _>>()?;
    let on_ours: BTreeSet<String> =
        indexes.into_iter().filter(|(_, table)| ours(table)).map(|(name, _)| name).collect();
    let mut differences = Vec::new();
    for (kind, name) in found.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
        let name_and_kind = (kind.clone(), name.clone());
        let (found, wanted) = (found.get(&name_and_kind), wanted.get(&name_and_kind));
        let has_our_name = wanted_names.iter().any(|ours| ours.eq_ignore_ascii_case(name));
        let is_of_others = kind == "table" && !has_our_name || kind == "index" && !on_ours.contains(name);
        if found == wanted || wanted.is_none() && is_of_others {
            continue;
        }
        let what = match (kind.as_str(), found) {
            ("view", _) => "it is not as gms-recorder makes it: do not read by it",
            ("index", Some(_)) if wanted.is_none() => {
                "gms-recorder makes none such on its tables: rows are found by it, or refused"
            }
            (_, None) => "it was dropped",
            (_, Some(_)) => "it is not as gms-recorder makes it: what it shows is not to be believed",
        };
        differences.push(Difference { kind: kind.clone(), name: name.clone(), what, is_gone: found.is_none() });
    }
    Ok(differences)
}

/// Whether it is the version of a later release than this one.
fn is_newer(version: &str) -> bool {
    let parts = |version: &str| {
        version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).take(3).collect::<Vec<u64>>()
    };
    parts(version) > parts(env!("CARGO_PKG_VERSION"))
}

/// How tables, indexes and views are made, by kind and name. The full-text index is made of the rows, and not sealed.
fn definitions(connection: &Connection) -> Result<BTreeMap<(String, String), String>, rusqlite::Error> {
    let sql = "SELECT type, name, sql FROM sqlite_schema
        WHERE type IN ('table', 'index', 'view') AND sql IS NOT NULL
            AND NOT (type = 'table' AND name LIKE 'search%') AND name NOT LIKE 'sqlite%'";
    let mut select = connection.prepare(sql)?;
    let rows = select.query_map((), |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_release_is_known_by_its_version() {
        let ours = env!("CARGO_PKG_VERSION");
        assert!(!is_newer(ours) && !is_newer("0.0.9") && !is_newer("nonsense") && !is_newer(""));
        assert!(is_newer("999.0.0") && is_newer("999.0.0-rc.1"));
    }
}
