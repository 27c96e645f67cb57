//! A chat as a page: self-contained, without script, every text of outside escaped; to be read, printed and kept. The policy in
//! it lets nothing be loaded or run, whatever a text may get past the escaping.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::folder::{Document, Folder};
use super::words::{is_typing, legible, legible_line, what, who};
use super::{Error, Errors, Names, Plan, Tally};
use crate::archive::html::{self, escaped};
use crate::store::audit::Snapshot;
use crate::store::audit::extract::{Record, Table};
use crate::units::iso;

/// Pages, and a list of them.
#[derive(Debug)]
pub struct Pages {
    names: Names,
    index: Document,
    archive_id: String,
    with_errors: bool,
}

impl Pages {
    /// Begins the list.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(snapshot: &Snapshot, folder: &Folder, within: &str, plan: &Plan) -> Result<Self, Error> {
        let mut index = folder.create(format!("{within}index.html"))?;
        html::begin(&mut index, "Chats", html::STYLE)?;
        write!(index, "<h1>Chats</h1>\n<table>\n<thead><tr>")?;
        for name in ["Chat", "Service", "First seen (UTC)", "Last seen (UTC)", "Transcript"] {
            write!(index, "<th>{name}</th>")?;
        }
        writeln!(index, "</tr></thead>\n<tbody>")?;
        let (archive_id, with_errors) = (snapshot.archive_id().to_owned(), plan.errors == Errors::With);
        Ok(Self { names: Names::below(within), index, archive_id, with_errors })
    }

    /// The page of a chat.
    ///
    /// # Errors
    /// The archive's and the file system's.
    pub fn chat(
        &mut self,
        snapshot: &Snapshot,
        folder: &Folder,
        chat: &Record,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let chat_id = chat.text("chat_id").unwrap_or_default();
        let name = self.names.next(folder, chat_id)?;
        let mut page = folder.create(format!("{}{name}.html", self.names.within))?;
        let facts = Facts::of(snapshot, chat)?;
        head(&mut page, chat, &facts)?;
        let mut typing = 0;
        snapshot.each_of_chat::<Error>(Table::Events, chat_id, |event| {
            tally.add(Table::Events);
            match is_typing(&event) {
                true => typing += 1,
                false => row(&mut page, &event, &facts)?,
            }
            Ok(())
        })?;
        writeln!(page, "</tbody>\n</table>")?;
        if self.with_errors {
            errors(&mut page, snapshot, chat_id)?;
        }
        foot(&mut page, typing, &self.archive_id)?;
        folder.close(page)?;
        self.list(chat, &name)
    }

    fn list(&mut self, chat: &Record, name: &str) -> Result<(), Error> {
        let text = |column: &str| escaped(&legible_line(chat.text(column).unwrap_or_default()));
        let time = |column: &str| chat.integer(column).and_then(iso).unwrap_or_default();
        writeln!(
            self.index,
            "<tr><td><a href=\"{name}.html\"><bdi>{}</bdi></a></td><td><bdi>{}</bdi></td><td class=\"time\">{}</td><td class=\"time\">{}</td><td>{}</td></tr>",
            text("chat_id"),
            text("service"),
            time("first_seen_at"),
            time("last_seen_at"),
            text("status"),
        )?;
        Ok(())
    }

    /// Ends the list.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(mut self, folder: &Folder) -> Result<(), Error> {
        writeln!(self.index, "</tbody>\n</table>\n</body>\n</html>")?;
        folder.close(self.index).map(drop)
    }
}

/// What stands above a transcript, and beside its lines.
#[derive(Debug)]
pub struct Facts {
    /// Name and value.
    pub attributes: Vec<(String, String)>,
    /// Half-open.
    pub holes: Vec<(i64, i64)>,
    /// Only what was added since it was delivered is here.
    pub is_addition: bool,
    /// Kinds of other content, by the index of the event.
    variants: BTreeMap<i64, Vec<String>>,
}

impl Facts {
    /// Those of a chat.
    ///
    /// # Errors
    /// The archive's.
    pub fn of(snapshot: &Snapshot, chat: &Record) -> Result<Self, Error> {
        let chat_id = chat.text("chat_id").unwrap_or_default();
        let is_addition = snapshot.is_addition(chat_id)?;
        let mut facts = Self { attributes: Vec::new(), holes: Vec::new(), is_addition, variants: BTreeMap::new() };
        snapshot.each_of_chat::<Error>(Table::Attributes, chat_id, |row| {
            let text = |column: &str| row.text(column).unwrap_or_default().to_owned();
            facts.attributes.push((text("name"), text("value")));
            Ok(())
        })?;
        snapshot.each_of_chat::<Error>(Table::Holes, chat_id, |row| {
            facts.holes.extend(row.integer("from_position").zip(row.integer("next_position")));
            Ok(())
        })?;
        snapshot.each_of_chat::<Error>(Table::Variants, chat_id, |row| {
            let (index, kind) = (row.integer("event_index").unwrap_or_default(), row.text("kind").unwrap_or_default());
            facts.variants.entry(index).or_default().push(kind.to_owned());
            Ok(())
        })?;
        Ok(facts)
    }

    /// That an event was delivered with other content too.
    pub fn remark(&self, event: &Record) -> Option<String> {
        let kinds = self.variants.get(&event.integer("event_index")?)?;
        Some(format!("also delivered with other content: {}", kinds.join(", ")))
    }

    /// Whether all of it was recorded, in words.
    pub fn coverage(&self, chat: &Record) -> String {
        let status = match chat.text("status").unwrap_or_default() {
            "complete" => "complete: the chat ended, and everything up to its end was recorded",
            "open" => "open: the chat was still going on",
            "unfinished" => "unfinished: no end was seen, and nothing is missing up to the last event",
            _ => "incomplete",
        };
        let addition = "an addition: what else there is of this chat was delivered before; ";
        let mut words = format!("{}{status}", if self.is_addition { addition } else { "" });
        for (from, next) in &self.holes {
            let _ = write!(words, "; positions {from} to {} were not covered", next - 1);
        }
        match chat.integer("hidden").unwrap_or_default() {
            0 => {}
            hidden => {
                let _ = write!(words, "; {hidden} hidden by GMS from these clients");
            }
        }
        words
    }
}

/// A page up to its first event.
///
/// # Errors
/// As the writer.
pub fn head(to: &mut impl Write, chat: &Record, facts: &Facts) -> io::Result<()> {
    let chat_id = chat.text("chat_id").unwrap_or_default();
    html::begin(to, &format!("Chat {chat_id}"), html::STYLE)?;
    writeln!(to, "<h1>Chat <bdi>{}</bdi></h1>\n<table>\n<tbody>", escaped(&legible_line(chat_id)))?;
    let time = |column: &str| chat.integer(column).and_then(iso).unwrap_or_default();
    let mut fact = |name: &str, value: &str| {
        let value = escaped(&legible_line(value));
        writeln!(to, "<tr><th>{}</th><td><bdi>{value}</bdi></td></tr>", escaped(&legible_line(name)))
    };
    fact("Service", chat.text("service").unwrap_or("unknown"))?;
    fact("First seen (UTC)", &time("first_seen_at"))?;
    fact("Last seen (UTC)", &time("last_seen_at"))?;
    fact("Transcript", &facts.coverage(chat))?;
    for (name, value) in &facts.attributes {
        fact(name, value)?;
    }
    writeln!(to, "</tbody>\n</table>\n<h2>Transcript</h2>\n<table>")?;
    writeln!(to, "<thead><tr><th>#</th><th>Time (UTC)</th><th>Who</th><th>What</th></tr></thead>\n<tbody>")
}

/// An event.
///
/// # Errors
/// As the writer.
pub fn row(to: &mut impl Write, event: &Record, facts: &Facts) -> io::Result<()> {
    let class = match (event.text("type"), event.text("party_type")) {
        (Some("Message"), Some("Client")) => " class=\"client\"",
        (Some("Message"), _) => "",
        _ => " class=\"quiet\"",
    };
    let remark = facts
        .remark(event)
        .map_or(String::new(), |remark| format!("<div class=\"note\">{}</div>", escaped(&legible_line(&remark))));
    writeln!(
        to,
        "<tr{class}><td class=\"number\">{}</td><td class=\"time\">{}</td><td><bdi>{}</bdi><br><bdi>{}</bdi></td><td class=\"text\" dir=\"auto\">{}{remark}</td></tr>",
        event.integer("event_index").unwrap_or_default(),
        event.integer("utc_time").and_then(iso).unwrap_or_default(),
        escaped(&legible_line(&who(event))),
        escaped(&legible_line(event.text("party_type").unwrap_or_default())),
        escaped(&legible(&what(event))),
    )
}

fn errors(to: &mut impl Write, snapshot: &Snapshot, chat_id: &str) -> Result<(), Error> {
    writeln!(to, "<h2>Errors</h2>\n<table>\n<thead><tr>")?;
    for name in ["Time (UTC)", "Times", "During", "Code", "What", "Reference", "Node"] {
        write!(to, "<th>{name}</th>")?;
    }
    writeln!(to, "</tr></thead>\n<tbody>")?;
    snapshot.each_of_chat::<Error>(Table::Errors, chat_id, |error| {
        let text = |column: &str| escaped(&legible_line(error.text(column).unwrap_or_default()));
        let number = |column: &str| error.integer(column).map_or(String::new(), |number| number.to_string());
        let what = ["meaning", "detail", "class"].into_iter().find(|column| error.text(column).is_some());
        writeln!(
            to,
            "<tr><td class=\"time\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            error.integer("observed_at").and_then(iso).unwrap_or_default(),
            number("repeats"),
            text("operation"),
            number("code"),
            text(what.unwrap_or("class")),
            text("reference_id"),
            text("node"),
        )?;
        Ok(())
    })?;
    writeln!(to, "</tbody>\n</table>")?;
    Ok(())
}

/// What stands below.
///
/// # Errors
/// As the writer.
pub fn foot(to: &mut impl Write, typing: u64, archive_id: &str) -> io::Result<()> {
    let typing = if typing > 0 { format!("{typing} typing notices are not shown. ") } else { String::new() };
    let version = env!("CARGO_PKG_VERSION");
    writeln!(to, "<footer>{typing}Archive {}, gms-recorder {version}</footer>\n</body>\n</html>", escaped(archive_id))
}
