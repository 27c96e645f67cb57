//! All chats as one XML file in the form of Actiance, as Mattermost's compliance export writes it (mattermost/mattermost,
//! `server/enterprise/message_export/actiance_export`, and the sample in mattermost/docs, `source/samples/actiance_export.xml`):
//! a `Conversation` a chat; in it all who entered, what was said, all who left. Times are milliseconds since the epoch.

use std::io::{self, Write};

use super::folder::{Document, Folder};
use super::mail::Addresses;
use super::words::{file, is_typing, what, who};
use super::{Error, Plan, Tally};
use crate::store::audit::Snapshot;
use crate::store::audit::extract::{Record, Table};

/// The file, while it is written.
#[derive(Debug)]
pub struct Actiance {
    document: Document,
    mail_domain: String,
}

/// Who was there.
#[derive(Debug)]
struct Party {
    address: String,
    is_bot: bool,
    entered: Vec<i64>,
    left: Vec<i64>,
}

impl Actiance {
    /// Begins it.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(folder: &Folder, within: &str, plan: &Plan) -> Result<Self, Error> {
        let mut document = folder.create(format!("{within}actiance_export.xml"))?;
        writeln!(document, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
        writeln!(document, "<FileDump xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">")?;
        Ok(Self { document, mail_domain: plan.mail_domain.clone() })
    }

    /// A chat.
    ///
    /// # Errors
    /// The archive's and the file system's.
    pub fn chat(&mut self, snapshot: &Snapshot, chat: &Record, tally: &mut Tally) -> Result<(), Error> {
        let chat_id = chat.text("chat_id").unwrap_or_default();
        let addresses = Addresses::of(chat_id, &self.mail_domain);
        let start = chat.integer("first_seen_at").unwrap_or_default();
        let end = chat.integer("ended_at").or(chat.integer("last_seen_at")).unwrap_or(start);
        let parties = parties(snapshot, chat_id, &addresses)?;
        let to = &mut self.document;
        let service = chat.text("service").unwrap_or_default();
        writeln!(to, "  <Conversation Perspective=\"{}\">", escaped(service))?;
        element(to, 2, "RoomID", &format!("chat - {service} - {chat_id}"))?;
        element(to, 2, "StartTimeUTC", &start.to_string())?;
        moves(to, "ParticipantEntered", &parties, start, |party| &party.entered)?;
        snapshot.each_of_chat::<Error>(Table::Events, chat_id, |event| {
            tally.add(Table::Events);
            Ok(said(to, &event, chat_id, &addresses, start)?)
        })?;
        moves(to, "ParticipantLeft", &parties, end, |party| &party.left)?;
        element(to, 2, "EndTimeUTC", &end.to_string())?;
        writeln!(to, "  </Conversation>")?;
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// The file system's.
    pub fn close(mut self, folder: &Folder) -> Result<(), Error> {
        writeln!(self.document, "</FileDump>")?;
        folder.close(self.document).map(drop)
    }
}

/// All of whom there is an event, in the order of their first one: whoever speaks is there, though no event said so.
fn parties(snapshot: &Snapshot, chat_id: &str, addresses: &Addresses) -> Result<Vec<Party>, Error> {
    let mut parties: Vec<Party> = Vec::new();
    snapshot.each_of_chat::<Error>(Table::Events, chat_id, |event| {
        let address = addresses.address(&event);
        let place = parties.iter().position(|party| party.address == address).unwrap_or_else(|| {
            let (is_bot, entered, left) = (is_bot(&event), Vec::new(), Vec::new());
            parties.push(Party { address, is_bot, entered, left });
            parties.len() - 1
        });
        match (event.text("type"), event.integer("utc_time")) {
            (Some("ParticipantJoined"), Some(at)) => parties[place].entered.push(at),
            (Some("ParticipantLeft"), Some(at)) => parties[place].left.push(at),
            _ => {}
        }
        Ok(())
    })?;
    Ok(parties)
}

/// `External` is what GMS calls parties that are no people.
fn is_bot(event: &Record) -> bool {
    event.text("party_type") == Some("External")
}

fn user_type(is_bot: bool) -> &'static str {
    if is_bot { "bot" } else { "user" }
}

fn moves(
    to: &mut impl Write,
    name: &str,
    parties: &[Party],
    otherwise: i64,
    of: impl Fn(&Party) -> &Vec<i64>,
) -> io::Result<()> {
    for party in parties {
        let times = of(party);
        let untold = times.is_empty().then_some(&otherwise);
        for at in times.iter().chain(untold) {
            writeln!(to, "    <{name}>")?;
            element(to, 3, "LoginName", &party.address)?;
            element(to, 3, "UserType", user_type(party.is_bot))?;
            element(to, 3, "DateTimeUTC", &at.to_string())?;
            element(to, 3, "CorporateEmailID", &party.address)?;
            writeln!(to, "    </{name}>")?;
        }
    }
    Ok(())
}

fn said(to: &mut impl Write, event: &Record, chat_id: &str, addresses: &Addresses, start: i64) -> io::Result<()> {
    if is_typing(event) {
        return Ok(());
    }
    let at = event.integer("utc_time").unwrap_or(start).to_string();
    let address = addresses.address(event);
    match event.text("type") {
        Some("ParticipantJoined" | "ParticipantLeft") => Ok(()), // above and below
        Some("FileUploaded") => {
            let (name, id) = (file(event), event.text("text").unwrap_or_default());
            for element_name in ["FileTransferStarted", "FileTransferEnded"] {
                writeln!(to, "    <{element_name}>")?;
                element(to, 3, "LoginName", &address)?;
                element(to, 3, "DateTimeUTC", &at)?;
                element(to, 3, "UserFileName", &name)?;
                element(to, 3, "FileName", id)?;
                if element_name == "FileTransferEnded" {
                    element(to, 3, "Status", "Completed")?;
                }
                writeln!(to, "    </{element_name}>")?;
            }
            Ok(())
        }
        kind => {
            writeln!(to, "    <Message>")?;
            element(to, 3, "MessageId", &format!("{chat_id}-{}", event.integer("event_index").unwrap_or_default()))?;
            element(to, 3, "LoginName", &address)?;
            element(to, 3, "UserType", user_type(is_bot(event)))?;
            element(to, 3, "DateTimeUTC", &at)?;
            if kind == Some("FileDeleted") {
                element(to, 3, "UpdatedType", "FileDeleted")?;
                element(to, 3, "UpdatedDateTimeUTC", &at)?;
            }
            let content = match kind {
                Some("NicknameUpdated") => format!("[NicknameUpdated] {}", who(event)),
                _ => what(event).into_owned(),
            };
            element(to, 3, "Content", &content)?;
            writeln!(to, "    </Message>")
        }
    }
}

fn element(to: &mut impl Write, depth: usize, name: &str, text: &str) -> io::Result<()> {
    writeln!(to, "{:1$}<{name}>{2}</{name}>", "", depth * 2, escaped(text))
}

/// What XML 1.0, section 2.2, does not allow becomes U+FFFD; line breaks and tabs are references, as Go writes them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            '\t' => out.push_str("&#x9;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
