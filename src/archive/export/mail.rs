//! A chat as a mail, as archives of mail (Global Relay, Smarsh) take in chats: from the one who was first there, to all others,
//! under addresses that nobody has; the transcript in it as text and as a page. Who sends the same chat again sends the same
//! mail: its Message-ID is of its content, and its date of the last event.

use std::fmt::Write as _;
use std::io::Write;

use mail_builder::MessageBuilder;
use mail_builder::headers::HeaderType;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::text::Text;
use mail_builder::mime::{BodyPart, MimePart};
use sha2::{Digest, Sha256};

use super::folder::Folder;
use super::page::{self, Facts};
use super::words::{is_typing, legible, legible_line, what, who};
use super::{Error, Names, Plan, Tally, hex};
use crate::store::audit::Snapshot;
use crate::store::audit::extract::{Record, Table};
use crate::units::iso;

/// Of a transcript in one mail, text and page together; a longer one goes on in another. Archives of mail refuse mails of more
/// than some 50 to 250 MiB, and a mail is held in memory.
const MAIL_BYTES_MAX: usize = 16 << 20;
/// A label of a name in DNS (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;
/// Characters of a name that is shown, as many as an id of a chat may have: a header is no place for more.
const NAME_CHARS_MAX: usize = 256;
/// Recipients that are named: more than a chat has, and fewer than make a header that nobody takes.
const RECIPIENTS_MAX: usize = 200;

/// The addresses of a chat's parties: `client-1@<chat>.invalid`.
#[derive(Debug, Clone)]
pub struct Addresses {
    domain: String,
}

impl Addresses {
    /// Those of a chat. An id that is no label of a domain is named by its hash.
    pub fn of(chat_id: &str, mail_domain: &str) -> Self {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let is_label = chat_id.len() <= LABEL_MAX
            && chat_id.chars().all(is_plain)
            && !chat_id.starts_with('-')
            && !chat_id.ends_with('-');
        let label = if is_label { chat_id.to_owned() } else { digest(&[chat_id.as_bytes()]) };
        Self { domain: format!("{label}.{mail_domain}") }
    }

    /// Of whoever an event is of: by the number that GMS gives each of a chat's parties; else by the nickname's hash.
    pub fn address(&self, event: &Record) -> String {
        let kind: String = event.text("party_type").unwrap_or("party").chars().take(LABEL_MAX / 3).collect();
        let kind = kind.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let kind = if kind.is_empty() { "party" } else { &kind };
        match (event.integer("participant_id"), event.text("nickname")) {
            (Some(number), _) => format!("{kind}-{number}@{}", self.domain),
            (None, Some(name)) => format!("{kind}-{}@{}", &digest(&[name.as_bytes()])[..16], self.domain),
            (None, None) => format!("{kind}@{}", self.domain),
        }
    }
}

/// Mails, a file each.
#[derive(Debug)]
pub struct Mails {
    names: Names,
    archive_id: String,
    mail_domain: String,
}

/// A mail while it is put together.
#[derive(Debug, Default)]
struct Draft {
    text: String,
    page: Vec<u8>,
    last_at: Option<i64>,
}

/// What all mails of a chat have.
struct Envelope<'c> {
    chat: &'c Record,
    facts: &'c Facts,
    /// Name and address, the first one the sender.
    parties: Vec<(String, String)>,
}

impl Mails {
    /// To be written below `within`.
    pub fn begin(snapshot: &Snapshot, within: &str, plan: &Plan) -> Self {
        let (archive_id, mail_domain) = (snapshot.archive_id().to_owned(), plan.mail_domain.clone());
        Self { names: Names::below(within), archive_id, mail_domain }
    }

    /// The mail, or mails, of a chat.
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
        let facts = Facts::of(snapshot, chat)?;
        let parties = self.parties(snapshot, chat_id)?;
        let envelope = Envelope { chat, facts: &facts, parties };
        let (mut draft, mut part, mut typing) = (Draft::begin(&envelope)?, 1, 0);
        snapshot.each_of_chat::<Error>(Table::Events, chat_id, |event| {
            tally.add(Table::Events);
            if is_typing(&event) {
                typing += 1;
                return Ok(());
            }
            if draft.text.len() + draft.page.len() > MAIL_BYTES_MAX {
                let full = std::mem::replace(&mut draft, Draft::begin(&envelope)?);
                self.send(folder, &name, part, &envelope, full, 0)?;
                part += 1;
            }
            draft.add(&event, &facts)
        })?;
        self.send(folder, &name, part, &envelope, draft, typing)
    }

    /// Who is in it, the first one first.
    fn parties(&self, snapshot: &Snapshot, chat_id: &str) -> Result<Vec<(String, String)>, Error> {
        let addresses = Addresses::of(chat_id, &self.mail_domain);
        let mut parties: Vec<(String, String)> = Vec::new();
        snapshot.each_of_chat::<Error>(Table::Events, chat_id, |event| {
            let address = addresses.address(&event);
            if parties.len() <= RECIPIENTS_MAX && !parties.iter().any(|(_, known)| *known == address) {
                parties.push((header(&who(&event)), address));
            }
            Ok(())
        })?;
        if parties.is_empty() {
            parties.push(("nobody".into(), format!("nobody@{}", addresses.domain)));
        }
        Ok(parties)
    }

    fn send(
        &self,
        folder: &Folder,
        name: &str,
        part: u64,
        envelope: &Envelope<'_>,
        mut draft: Draft,
        typing: u64,
    ) -> Result<(), Error> {
        writeln!(draft.page, "</tbody>\n</table>")?;
        page::foot(&mut draft.page, typing, &self.archive_id)?;
        let ending = if part == 1 { String::new() } else { format!("-part-{part}") };
        let mut document = folder.create(format!("{}{name}{ending}.eml", self.names.within))?;
        self.message(part, envelope, draft).write_to(&mut document)?;
        folder.close(document).map(drop)
    }

    fn message<'m>(&self, part: u64, envelope: &'m Envelope<'_>, draft: Draft) -> MessageBuilder<'m> {
        let Envelope { chat, facts, parties } = envelope;
        let chat_id = chat.text("chat_id").unwrap_or_default();
        let content = digest(&[self.archive_id.as_bytes(), chat_id.as_bytes(), draft.text.as_bytes()]);
        let mailbox = |(name, address): &'m (String, String)| Address::from((name.as_str(), address.as_str()));
        let recipients: Vec<_> = match &parties[1..] {
            [] => vec![mailbox(&parties[0])], // alone in the chat
            others => others.iter().map(mailbox).collect(),
        };
        let at = draft.last_at.or(chat.integer("last_seen_at")).unwrap_or_default();
        let of_part = if part == 1 { String::new() } else { format!(" (part {part})") };
        let service = header(chat.text("service").unwrap_or("chat"));
        let addition = if facts.is_addition { " (addition)" } else { "" };
        let title = format!("Chat {} with {service}{addition}{of_part}", header(chat_id));
        let plain = MimePart::new("text/plain", draft.text);
        let page = MimePart::new("text/html", String::from_utf8_lossy(&draft.page).into_owned());
        let boundary = format!("=_{}", &content[..32]);
        let body = MimePart::new(
            ContentType::new("multipart/alternative").attribute("boundary", boundary),
            BodyPart::Multipart(vec![plain, page]),
        );
        MessageBuilder::new()
            .from(mailbox(&parties[0]))
            .to(Address::new_list(recipients))
            .subject(title)
            .date(Date::new(at.div_euclid(1_000)))
            .message_id(MessageId::new(format!("{content}@{}", self.mail_domain)))
            .header("Auto-Submitted", HeaderType::from(Text::new("auto-generated")))
            .header("X-GMS-Recorder-Chat-ID", HeaderType::from(Text::new(header(chat_id))))
            .header("X-GMS-Recorder-Archive-ID", HeaderType::from(Text::new(self.archive_id.clone())))
            .body(body)
    }
}

impl Draft {
    fn begin(envelope: &Envelope<'_>) -> Result<Self, Error> {
        let Envelope { chat, facts, .. } = envelope;
        let mut draft = Self::default();
        page::head(&mut draft.page, chat, facts)?;
        let mut fact = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(draft.text, "{}: {}", legible_line(name), legible_line(value));
        };
        fact("Chat", chat.text("chat_id").unwrap_or_default());
        fact("Service", chat.text("service").unwrap_or("unknown"));
        fact("Transcript", &facts.coverage(chat));
        facts.attributes.iter().for_each(|(name, value)| fact(name, value));
        draft.text.push('\n');
        Ok(draft)
    }

    /// A line for the event; further lines of what was said are set in, so that none passes for another event.
    fn add(&mut self, event: &Record, facts: &Facts) -> Result<(), Error> {
        let index = event.integer("event_index").unwrap_or_default();
        let at = event.integer("utc_time").and_then(iso).unwrap_or_else(|| "-".into());
        let party = legible_line(event.text("party_type").unwrap_or("unknown"));
        let said = what(event);
        let said = legible(&said).replace('\n', "\n    ");
        let _ = writeln!(self.text, "{at} #{index} {} ({party}): {said}", legible_line(&who(event)));
        if let Some(remark) = facts.remark(event) {
            let _ = writeln!(self.text, "    ({remark})");
        }
        page::row(&mut self.page, event, facts)?;
        // A number that no calendar holds is no date.
        self.last_at = event.integer("utc_time").filter(|at| iso(*at).is_some()).or(self.last_at);
        Ok(())
    }
}

/// A text for a header. What looks like an encoded word (RFC 2047) would be decoded by many programs, even within quotes: a
/// word joiner, which is not seen, breaks it up, and has the whole text encoded.
fn header(text: &str) -> String {
    legible_line(text).chars().take(NAME_CHARS_MAX).collect::<String>().replace("=?", "=\u{2060}?")
}

/// The first 20 bytes of a SHA-256 over all of it, hex: 40 characters, which fit a label.
fn digest(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex(&digest.finalize()[..20])
}
