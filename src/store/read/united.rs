//! Several archives read as one: those of a pair of proxies. They are attached to an empty database in memory, and temporary
//! views with the names of their tables unite them; the views of the schema are made anew over these. Nothing is copied.
//!
//! An event is the first file's that has it; other text of the same event in a later one is a variant. Coverage is that of all.
//! Numbers (`id`, `run_id`, `act_id`, …) are made one sequence, and are those of no file. Tables of evidence (seals, tree, keys,
//! checkpoints) and the catalogue are the first file's. What `merge` does better: text is compared as it is, not by its JSON; a
//! chat that was erased in one file and is in another is shown; and no index helps to sort what comes from several files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};

use super::super::MIGRATIONS;
use super::{Archive, Error, has_wal};

/// SQLite attaches ten at most; more proxies than these before the same chats are none that we know of.
const FILES_MAX: usize = 8;

/// Tables whose rows are put one after another.
const APPENDED: [&str; 14] = [
    "chat_attributes",
    "coverage",
    "api_errors",
    "findings",
    "outages",
    "runs",
    "accounts",
    "spools",
    "maskings",
    "file_transfers",
    "acts",
    "holds",
    "erasures",
    "waiting_erasures",
];

/// Columns that number rows, here or elsewhere.
const NUMBERS: [&str; 7] = ["id", "run_id", "act_id", "row_id", "held_by", "done_by", "released_by"];

impl Archive {
    /// Opens archives of several proxies as one; of one as [`Archive::open`].
    ///
    /// # Errors
    /// As [`Archive::open`], for each; [`Error::Refused`] where they cannot be united.
    pub async fn open_all(paths: &[PathBuf]) -> Result<Self, Error> {
        if let [path] = paths {
            return Self::open(path).await;
        }
        if paths.is_empty() || paths.len() > FILES_MAX {
            return Err(Error::Refused(format!("{} files: up to {FILES_MAX} are read at once", paths.len())));
        }
        for path in paths {
            Self::open(path).await?.close().await?;
        }
        let options = SqliteConnectOptions::new().in_memory(true).busy_timeout(Duration::from_secs(5));
        let mut connection = options.disable_statement_logging().connect().await?;
        for (number, path) in paths.iter().enumerate() {
            attach(&mut connection, number, path).await?;
        }
        check(&mut connection, paths).await?;
        let views = views(&mut connection, paths.len()).await?;
        for view in views {
            run(&mut connection, &view).await?;
        }
        run(&mut connection, "PRAGMA query_only = ON").await?;
        Ok(Self { connection, path: paths[0].clone(), is_immutable: false, is_united: true })
    }
}

async fn run(connection: &mut SqliteConnection, sql: &str) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await?;
    Ok(())
}

async fn texts(connection: &mut SqliteConnection, sql: &str) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await?)
}

/// Read-only; where its -shm may not be made and no server runs, as it is.
async fn attach(connection: &mut SqliteConnection, number: usize, path: &Path) -> Result<(), Error> {
    let plain = super::immutable_uri(path);
    for uri in [plain.replace("immutable=1", "mode=ro"), plain] {
        let attached =
            sqlx::query(AssertSqlSafe(format!("ATTACH ? AS a{number}"))).bind(&uri).execute(&mut *connection).await;
        let sql = format!("SELECT name FROM a{number}.sqlite_master LIMIT 1");
        match attached {
            Ok(_) if texts(connection, &sql).await.is_ok() => return Ok(()),
            Ok(_) => run(connection, &format!("DETACH a{number}")).await?,
            Err(_) => {}
        }
        if has_wal(path) {
            break;
        }
    }
    Err(Error::Unreadable { path: path.to_owned(), why: "it could not be opened beside the others".into() })
}

/// They are of this release, and of different proxies.
async fn check(connection: &mut SqliteConnection, paths: &[PathBuf]) -> Result<(), Error> {
    let mut ids: Vec<String> = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let refused = |why: &str| Err(Error::Refused(format!("{} {why}", path.display())));
        let count = format!("SELECT CAST(count(*) AS TEXT) FROM a{number}._sqlx_migrations WHERE success");
        let count = texts(connection, &count).await?;
        if count != [MIGRATIONS.len().to_string()] {
            return refused(
                "is of another release than this program: with others it can be read once `serve` of this one has brought it up to date",
            );
        }
        let id = texts(connection, &format!("SELECT archive_id FROM a{number}.archive")).await?.concat();
        if ids.contains(&id) {
            return refused("is a copy of another one of these files: each archive once");
        }
        ids.push(id);
    }
    let list = serde_json::Value::from(ids).to_string();
    for (number, path) in paths.iter().enumerate() {
        let sql =
            format!("SELECT 1 AS n FROM a{number}.merges WHERE archive_id IN (SELECT value FROM json_each(?)) LIMIT 1");
        let merged = sqlx::query(AssertSqlSafe(sql)).bind(&list).fetch_optional(&mut *connection).await?;
        if merged.is_some() {
            let why = "has another one of these files in it already, by `merge`: read it alone";
            return Err(Error::Refused(format!("{} {why}", path.display())));
        }
    }
    Ok(())
}

async fn columns(connection: &mut SqliteConnection, table: &str) -> Result<Vec<String>, Error> {
    texts(connection, &format!("SELECT name FROM pragma_table_info('{table}', 'a0')")).await
}

/// Everything to make.
async fn views(connection: &mut SqliteConnection, files: usize) -> Result<Vec<String>, Error> {
    let mut views = Vec::new();
    for table in APPENDED {
        let columns = columns(connection, table).await?;
        views.push(view(table, files, |file| {
            format!("SELECT {} FROM a{file}.{table}", selected(&columns, file, files))
        }));
    }
    let events = columns(connection, "events").await?;
    let known = |file: usize, what: &str| {
        let in_one = |before| {
            format!(
                "EXISTS (SELECT 1 FROM a{before}.events f WHERE f.chat_id = e.chat_id AND f.event_index = e.event_index{what})"
            )
        };
        (0..file).map(in_one).collect::<Vec<_>>().join(" OR ")
    };
    let or_none = |known: String| if known.is_empty() { "0".to_owned() } else { known };
    views.push(view("events", files, |file| {
        let columns = selected(&events, file, files);
        format!("SELECT {columns} FROM a{file}.events e WHERE NOT ({})", or_none(known(file, "")))
    }));
    let run = |file: usize| number("run_id", file, files);
    views.push(view("event_variants", files, |file| {
        format!(
            "SELECT chat_id, event_index, digest, kind, raw, recorded_at, node, {run} AS run_id FROM a{file}.event_variants
             UNION ALL SELECT chat_id, event_index, x'', 'changed', raw, recorded_at, node, {run} FROM a{file}.events e WHERE {}",
            or_none(known(file, " AND f.raw <> e.raw")),
            run = run(file),
        )
    }));
    views.push(view("chats", files, |file| chats(file, files)));
    views.push(view("merged_rows", files, |file| {
        let own = format!(
            "SELECT (SELECT archive_id FROM a{file}.archive), 9, run_id, {}, 0 FROM a{file}.runs
             WHERE run_id NOT IN (SELECT id FROM a{file}.merged_rows WHERE form = 9)",
            run(file)
        );
        let id = number("id", file, files);
        format!("SELECT archive_id, form, their_id, {id} AS id, repeats FROM a{file}.merged_rows UNION ALL {own}")
    }));
    let schema = "SELECT replace(sql, 'CREATE VIEW', 'CREATE TEMP VIEW') FROM a0.sqlite_master WHERE type = 'view'";
    views.extend(texts(connection, schema).await?);
    Ok(views)
}

fn view(name: &str, files: usize, select: impl Fn(usize) -> String) -> String {
    let all = (0..files).map(select).collect::<Vec<_>>().join("\nUNION ALL ");
    format!("CREATE TEMP VIEW {name} AS {all}")
}

fn selected(columns: &[String], file: usize, files: usize) -> String {
    let column = |column: &String| match NUMBERS.contains(&column.as_str()) {
        true => format!("{} AS {column}", number(column, file, files)),
        false => column.clone(),
    };
    columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// One sequence of all files' numbers.
fn number(column: &str, file: usize, files: usize) -> String {
    format!("{column} * {files} + {file}")
}

/// A chat's row says what any file says. By subqueries of its key, so that one chat costs no more than its rows.
fn chats(file: usize, files: usize) -> String {
    let others: Vec<usize> = (file + 1..files).collect();
    let of = |column: &str| {
        let other = |other: &usize| format!("(SELECT {column} FROM a{other}.chats o WHERE o.chat_id = c.chat_id)");
        std::iter::once(format!("c.{column}")).chain(others.iter().map(other)).collect::<Vec<_>>()
    };
    let first = |column: &str| match others.is_empty() {
        true => format!("c.{column} AS {column}"),
        false => format!("coalesce({}) AS {column}", of(column).join(", ")),
    };
    // min() and max() of several are NULL where one is.
    let most = |function: &str, column: &str| {
        let values = of(column).into_iter().map(|value| format!("SELECT {value} AS v")).collect::<Vec<_>>();
        format!("(SELECT {function}(v) FROM ({})) AS {column}", values.join(" UNION ALL "))
    };
    let known = |before| format!("EXISTS (SELECT 1 FROM a{before}.chats b WHERE b.chat_id = c.chat_id)");
    let known = (0..file).map(known).collect::<Vec<_>>().join(" OR ");
    let columns = [
        format!("{} AS rowid", number("c.rowid", file, files)),
        "c.chat_id AS chat_id".into(),
        first("service"),
        most("min", "first_seen_at"),
        most("max", "last_seen_at"),
        first("ended_at"),
        first("ended_how"),
        most("max", "next_position"),
        most("max", "is_async"),
        most("max", "highest_index"),
    ];
    let known = if known.is_empty() { "0".to_owned() } else { known };
    format!("SELECT {} FROM a{file}.chats c WHERE NOT ({known})", columns.join(", "))
}
