//! `transcript`: one chat, as one would read it.
//!
//! Every line that a customer or agent wrote stands behind a bar of its own (`│`), continuation lines too, so that no
//! text can pass for another speaker's line or for one of ours.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use jiff::Zoned;
use serde_json::Value;

use super::errors;
use super::output::{
    self, Cell, Format, Ink, Look, Output, Usage, counted, cut, labelled, padded, shown, shown_lines, width, wrap,
};
use super::reading::{Case, Reading};
use super::scope::Customers;
use super::when::{self, Clock};
use crate::store::read::{self, ApiError, Archive, Chat, Event, Stretch, Variant};

const EXAMPLE: &str = "\
Example:
  gms-recorder transcript 00001aCY6K8U003T --errors";

/// Print one chat, as one would read it.
///
/// JSON and CSV print one event a record; JSON with --errors prints the errors after them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLE)]
#[group(skip)]
pub struct Args {
    /// The chat; `gms-recorder chats` lists them.
    chat_id: String,
    /// Put the chat's errors in between, where they happened.
    #[arg(long)]
    errors: bool,
    /// Show the other contents of events that were delivered with more than one.
    #[arg(long)]
    variants: bool,
    /// Show when somebody was typing.
    #[arg(long)]
    typing: bool,
    #[command(flatten)]
    case: Case,
    #[command(flatten)]
    look: Look,
}

impl Args {
    /// One chat, in text.
    pub fn of(chat_id: &str) -> Self {
        Self { chat_id: chat_id.into(), ..Self::default() }
    }
}

/// Runs the command.
///
/// # Errors
/// What to tell the user; an unknown chat is one.
pub async fn run(args: Args, reading: &Reading) -> anyhow::Result<()> {
    let clock = Clock::now(args.look.utc);
    let databases = &reading.databases;
    reading.to_stdout(&args.case, args.look, async |output| print(&args, databases, &clock, output).await).await
}

/// Events are read in pages of this many, so that no read lasts.
const PAGE: i64 = 500;

/// More errors of one chat than a person reads; `errors --chat` has them all.
const ERRORS_MAX: i64 = 1_000;

async fn print(args: &Args, databases: &[PathBuf], clock: &Clock, output: &mut Output<'_>) -> anyhow::Result<()> {
    if args.errors && output.format == Format::Csv {
        let why = "errors have columns of their own, so they do not go into this CSV: use `gms-recorder errors --chat CHAT_ID --format csv`";
        return Err(Usage(why.into()).into());
    }
    let mut archive = Archive::open_all(databases).await?;
    let Some(chat) = archive.chat(&args.chat_id).await? else {
        let removal = archive.removal(&args.chat_id).await?;
        let (chat_id, path) = (output::plain_line(&args.chat_id), archive.path().display());
        if let Some(removal) = removal {
            let removal = output::plain_line(&removal);
            anyhow::bail!("chat {chat_id} was {removal}: `gms-recorder prove {chat_id}` proves that, and no more");
        }
        anyhow::bail!("there is no chat {chat_id} in {path}; `gms-recorder chats` lists those there are");
    };
    let errors = if args.errors { errors_of(&mut archive, &chat).await? } else { VecDeque::new() };
    match output.format {
        Format::Text => read_aloud(args, &chat, errors, &mut archive, clock, output).await,
        Format::Json | Format::Csv => records(args, &chat, errors, &mut archive, output).await,
    }
}

/// The oldest first.
async fn errors_of(archive: &mut Archive, chat: &Chat) -> Result<VecDeque<ApiError>, read::Error> {
    let wanted = read::Errors { chat_ids: Some(vec![chat.chat_id.clone()]), ..read::Errors::default() };
    let mut errors = VecDeque::from(archive.errors(&wanted, None, ERRORS_MAX).await?);
    errors.make_contiguous().reverse();
    Ok(errors)
}

async fn read_aloud(
    args: &Args,
    chat: &Chat,
    mut errors: VecDeque<ApiError>,
    archive: &mut Archive,
    clock: &Clock,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    let mut customers = Customers::default();
    customers.learn(archive, std::iter::once(&chat.chat_id)).await?;
    let erased = Erased::of(chat, archive).await?;
    heading(chat, erased.as_ref(), &customers, clock, output)?;

    let until = erased.as_ref().map_or(1, |erased| erased.next);
    let holes = archive.holes_of(&chat.chat_id).await?;
    let mut page = Page::new(&archive.parties(&chat.chat_id).await?, clock, output);
    let mut after = 0;
    loop {
        let events = archive.events(&chat.chat_id, after, PAGE).await?;
        for event in &events {
            page.gaps(&gaps(after + 1, event.event_index, until, &holes))?;
            after = event.event_index;
            while errors.front().is_some_and(|error| event.utc_time.is_some_and(|at| error.observed_at < at)) {
                page.errors(errors.pop_front())?;
            }
            if args.typing || !is_typing(event) {
                page.event(event)?;
            }
            if event.has_variants {
                page.variants(&archive.variants(&chat.chat_id, event.event_index).await?, args.variants)?;
            }
        }
        if (events.len() as i64) < PAGE {
            break;
        }
    }
    page.gaps(&gaps(after + 1, chat.next_position.unwrap_or(0), until, &holes))?;
    page.errors(errors)?;
    Ok(())
}

fn is_typing(event: &Event) -> bool {
    matches!(event.kind.as_deref(), Some("TypingStarted" | "TypingStopped"))
}

/// What of a chat was erased or purged, where it went on afterwards.
struct Erased {
    /// Positions from 1 to this, exclusive.
    next: i64,
    /// How, when and why.
    words: String,
}

impl Erased {
    async fn of(chat: &Chat, archive: &mut Archive) -> Result<Option<Self>, read::Error> {
        let Some(next) = archive.erased_below(&chat.chat_id).await? else { return Ok(None) };
        let words = archive.removal(&chat.chat_id).await?.unwrap_or_else(|| "erased".into());
        Ok(Some(Self { next, words }))
    }
}

fn heading(
    chat: &Chat,
    erased: Option<&Erased>,
    customers: &Customers,
    clock: &Clock,
    output: &mut Output<'_>,
) -> io::Result<()> {
    output.line(&Ink::Bold.on(&format!("Chat {}", shown(&chat.chat_id))))?;
    let life = when::span(chat.last_seen_at.saturating_sub(chat.first_seen_at));
    labelled(output, "service", &shown(chat.service.as_deref().unwrap_or("unknown")))?;
    labelled(output, "customer", &shown(customers.name(&chat.chat_id).as_deref().unwrap_or("unknown")))?;
    labelled(output, "seen", &format!("{}, {life}", clock.stretch(chat.first_seen_at, chat.last_seen_at)))?;
    labelled(output, "status", &status(chat))?;
    labelled(output, "contains", &contents(chat, erased))?;
    if let Some(erased) = erased {
        let words = format!("what came before position {} was {}", erased.next, shown(&erased.words));
        labelled(output, "erased", &Ink::Yellow.on(&words))?;
    }
    for attribute in customers.attributes(&chat.chat_id) {
        let text = format!("{}: {}", shown(&attribute.name), shown_lines(&attribute.value));
        labelled(output, "known", &text)?;
    }
    Ok(())
}

fn status(chat: &Chat) -> String {
    let end = match chat.ended_how.as_deref() {
        Some("chat_ended") => "the chat ended",
        Some("chat_ended_with_error") => "the chat ended with an error",
        Some("quiet") => "no end was seen, it went quiet",
        _ => "it is still going on",
    };
    let whole = "everything was covered, as delivered to the clients behind this recorder";
    match (chat.status.as_str(), chat.holes) {
        ("complete", _) => format!("{}: {end}, {whole}", Ink::Green.on("complete")),
        (status, 0) => format!("{}: {end}, no hole so far", shown(status)),
        (status, holes) => format!("{}: {end}, {}", Ink::Yellow.on(&shown(status)), counted(holes, "hole")),
    }
}

fn contents(chat: &Chat, erased: Option<&Erased>) -> String {
    // Of ground that was covered no event is left there, either.
    let hidden = match chat.hidden - erased.map_or(0, |erased| erased.next - 1) {
        ..=0 => String::new(),
        hidden => format!(", {hidden} hidden by GMS from these clients"),
    };
    let errors =
        if chat.errors == 0 { String::new() } else { format!(", {} (--errors)", counted(chat.errors, "error")) };
    format!("{}, {}{hidden}{errors}", counted(chat.events, "event"), counted(chat.messages, "message"))
}

/// Positions without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    from: i64,
    next: i64,
    why: Why,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// They were erased.
    Erased,
    /// An answer covered them.
    Hidden,
    /// None did.
    Uncovered,
}

/// What lies between `from` and `next`, parted at the end of what was erased and where holes begin and end.
fn gaps(start: i64, next: i64, erased_until: i64, holes: &[Stretch]) -> Vec<Gap> {
    let mut found = Vec::new();
    let erased_until = erased_until.min(next);
    if start < erased_until {
        found.push(Gap { from: start, next: erased_until, why: Why::Erased });
    }
    let start = start.max(erased_until);
    let mut from = start;
    // An event may stand in a hole.
    for hole in holes.iter().filter(|hole| start < next && hole.next > start && hole.from < next) {
        if hole.from > from {
            found.push(Gap { from, next: hole.from, why: Why::Hidden });
        }
        let end = hole.next.min(next);
        found.push(Gap { from: hole.from.max(from), next: end, why: Why::Uncovered });
        from = end;
    }
    if from < next {
        found.push(Gap { from, next, why: Why::Hidden });
    }
    found
}

/// The lines below the heading: time, party, name, mark, text.
struct Page<'a, 'o> {
    clock: &'a Clock,
    output: &'a mut Output<'o>,
    party: usize,
    name: usize,
    day: Option<String>,
}

const TIME: usize = 8;
const PARTY_MAX: usize = 10;
const NAME_MAX: usize = 20;
/// Text in fewer columns than this is not read but spelt: names give way.
const TEXT_MIN: usize = 24;

impl<'a, 'o> Page<'a, 'o> {
    fn new(parties: &[(Option<String>, Option<String>)], clock: &'a Clock, output: &'a mut Output<'o>) -> Self {
        let widest =
            |texts: &mut dyn Iterator<Item = &String>| texts.map(|text| width(&shown(text))).max().unwrap_or(0);
        let party = widest(&mut parties.iter().filter_map(|(party, _)| party.as_ref())).min(PARTY_MAX);
        let room = output.width.saturating_sub(TIME + party + TEXT_MIN + 8);
        let name = widest(&mut parties.iter().filter_map(|(_, name)| name.as_ref())).min(NAME_MAX).min(room.max(4));
        Self { clock, output, party, name, day: None }
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.output.rows += 1;
        self.day(event)?;
        let time = event.utc_time.map_or_else(|| "--:--:--".into(), |at| self.clock.time(at));
        let party = shown(event.party_type.as_deref().unwrap_or_default());
        let name = match (&event.nickname, event.participant_id) {
            (Some(nickname), _) => shown(nickname),
            (None, Some(participant)) => format!("#{participant}"),
            (None, None) => String::new(),
        };
        let ink = if event.party_type.as_deref() == Some("Client") { Ink::Green } else { Ink::Cyan };
        let who = format!(
            "{}  {}  {}",
            Ink::Dim.on(&padded(&cut(&time, TIME), TIME)),
            padded(&cut(&party, self.party), self.party),
            ink.on(&padded(&cut(&name, self.name), self.name)),
        );
        let (mark, text) = said(event);
        let text = if mark == BAR { text } else { Ink::Dim.on(&text) };
        self.lines(&who, mark, &text)
    }

    /// A line where the day, or the offset from UTC, changes.
    fn day(&mut self, event: &Event) -> io::Result<()> {
        let title = |at: Zoned| at.strftime("%A %Y-%m-%d, UTC%:z").to_string();
        let day = event.utc_time.and_then(|at| self.clock.zone_time(at)).map(title);
        if day.is_none() || day == self.day {
            return Ok(());
        }
        self.day = day;
        let title = format!("── {} ", self.day.as_deref().unwrap_or_default());
        let rule = "─".repeat(self.output.width.saturating_sub(width(&title)).min(60));
        self.output.line("")?;
        self.output.line(&Ink::Dim.on(&format!("{title}{rule}")))
    }

    fn gaps(&mut self, gaps: &[Gap]) -> io::Result<()> {
        for gap in gaps {
            let positions = match gap.next - gap.from {
                1 => gap.from.to_string(),
                _ => format!("{} to {}", gap.from, gap.next - 1),
            };
            match gap.why {
                Why::Erased => self.lines("", "×", &Ink::Yellow.on(&format!("erased: {positions}")))?,
                Why::Hidden => {
                    self.lines("", "·", &Ink::Dim.on(&format!("hidden by GMS from these clients: {positions}")))?;
                }
                Why::Uncovered => self.lines("", "?", &Ink::Yellow.on(&format!("not covered: {positions}")))?,
            }
        }
        Ok(())
    }

    fn errors(&mut self, errors: impl IntoIterator<Item = ApiError>) -> io::Result<()> {
        for error in errors {
            self.output.rows += 1;
            let time = Ink::Dim.on(&self.clock.time(error.observed_at));
            let during = error.operation.as_deref().map_or(String::new(), |name| format!(" during {}", shown(name)));
            let what = error.meaning.as_deref().or(error.detail.as_deref()).unwrap_or(error.class.as_str());
            let text = format!("{}{during}: {}; {}", errors::got(&error), shown(what), errors::remedy(&error));
            self.lines(&time, "!", &Ink::Red.on(&text))?;
        }
        Ok(())
    }

    fn variants(&mut self, variants: &[Variant], content: bool) -> io::Result<()> {
        for variant in variants {
            let node = shown(variant.node.as_deref().unwrap_or("an unknown node"));
            let at = self.clock.date_time(variant.recorded_at);
            let raw = if content { format!(": {}", shown(&variant.raw)) } else { String::new() };
            let text = format!("delivered with other content too ({}) by {node} at {at}{raw}", shown(&variant.kind));
            self.lines("", "≠", &Ink::Yellow.on(&text))?;
        }
        Ok(())
    }

    /// One entry: who before the mark of its first line, the mark before every line of its text.
    fn lines(&mut self, who: &str, mark: &str, text: &str) -> io::Result<()> {
        let indent = TIME + self.party + self.name + 6;
        let room = self.output.width.saturating_sub(indent + 2);
        for (number, line) in wrap(text, room).iter().enumerate() {
            let (who, mark) = if number == 0 { (who, mark) } else { ("", if mark == BAR { BAR } else { " " }) };
            self.output.line(&format!("{}{} {line}", padded(who, indent), Ink::Dim.on(mark)))?;
        }
        Ok(())
    }
}

/// Before what somebody wrote, and before nothing else.
const BAR: &str = "│";

/// What happened, in words, and the mark before it.
fn said(event: &Event) -> (&'static str, String) {
    let text = || shown_lines(event.text.as_deref().unwrap_or_default());
    let line = || shown(event.text.as_deref().unwrap_or_default());
    match event.kind.as_deref() {
        Some("Message") => (BAR, message(event, text())),
        Some("ParticipantJoined") => ("→", "joined".into()),
        Some("ParticipantLeft") => ("←", format!("left{}", quit_reason(event))),
        Some("PushUrl") => ("*", format!("pushed a URL: {}", line())),
        Some("NicknameUpdated") => ("*", format!("has a new nickname{}", after_colon(&line()))),
        Some("FileUploaded") => ("+", format!("sent a file: {}", file(event))),
        Some("FileDeleted") => ("-", format!("deleted a file: {}", file(event))),
        Some("CustomNotice") => ("*", format!("custom notice{}", after_colon(&line()))),
        Some("Notice") => ("*", format!("notice{}", after_colon(&line()))),
        Some("IdleAlert") => ("*", format!("idle alert{}", after_colon(&line()))),
        Some("IdleClose") => ("*", format!("closed for being idle{}", after_colon(&line()))),
        Some("TypingStarted") => ("…", format!("is typing{}", after_colon(&line()))),
        Some("TypingStopped") => ("…", format!("stopped typing{}", after_colon(&line()))),
        Some(kind) => ("*", format!("{}{}", shown(kind), after_colon(&line()))),
        None => ("*", format!("an event without a type{}", after_colon(&line()))),
    }
}

fn message(event: &Event, text: String) -> String {
    match event.message_type.as_deref() {
        None | Some("text" | "") => text,
        Some(kind) => format!("{} {text}", Ink::Dim.on(&format!("({})", shown(kind)))),
    }
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// `quit-reason-code` of the event's attributes, in the words of Genesys' eServices Chat documentation.
fn quit_reason(event: &Event) -> String {
    let attributes = json(event.event_attributes.as_deref());
    let code = text_of(&attributes["GCTI_SYSTEM"]["quit-reason-code"]);
    let words = match code.as_deref() {
        None => return String::new(),
        Some("0") => "logged out",
        Some("3") => "no sign of life from the client",
        Some("4") => "removed by another participant",
        Some("5") => "removed by the server",
        Some("7") => "the session was inactive",
        Some("8") => "removed when the session was restored",
        Some(code) => return format!(": reason {}", shown(code)),
    };
    format!(": {words} (reason {})", code.unwrap_or_default())
}

fn file(event: &Event) -> String {
    let user_data = json(event.user_data.as_deref());
    let named =
        text_of(&user_data["file-name"]).or_else(|| text_of(&user_data["file-id"])).or_else(|| event.text.clone());
    let name = shown(named.as_deref().unwrap_or("without a name"));
    let size = text_of(&user_data["file-size"]).map(|size| match size.parse::<u64>() {
        Ok(bytes) => bytes_for_people(bytes),
        Err(_) => shown(&size),
    });
    let description = text_of(&user_data["file-description"]).filter(|text| !text.is_empty()).map(|text| shown(&text));
    std::iter::once(name).chain(size).chain(description).collect::<Vec<_>>().join(", ")
}

/// `12.4 KiB`
pub(super) fn bytes_for_people(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} bytes"),
    }
}

fn json(text: Option<&str>) -> Value {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

const NAMES: [&str; 16] = [
    "chat_id",
    "event_index",
    "at",
    "type",
    "party_type",
    "nickname",
    "participant_id",
    "text",
    "message_type",
    "user_data",
    "event_attributes",
    "utc_time",
    "recorded_at",
    "node",
    "run_id",
    "variants",
];

const VARIANT_NAMES: [&str; 4] = ["kind", "raw", "recorded_at", "node"];

async fn records(
    args: &Args,
    chat: &Chat,
    errors: VecDeque<ApiError>,
    archive: &mut Archive,
    output: &mut Output<'_>,
) -> anyhow::Result<()> {
    output.header(&NAMES)?;
    let mut after = 0;
    loop {
        let events = archive.events(&chat.chat_id, after, PAGE).await?;
        for event in events.iter().filter(|event| args.typing || !is_typing(event)) {
            let variants = match event.has_variants {
                true => archive.variants(&chat.chat_id, event.event_index).await?,
                false => Vec::new(),
            };
            output.record(&NAMES, &record(event, &variants, args.variants))?;
        }
        match events.last() {
            Some(last) if events.len() as i64 == PAGE => after = last.event_index,
            _ => break,
        }
    }
    errors.iter().try_for_each(|error| output.record(&errors::NAMES, &errors::record(error, None)))?;
    Ok(())
}

fn record(event: &Event, variants: &[Variant], content: bool) -> [Cell; NAMES.len()] {
    let json = |text: Option<String>| text.map_or(Cell::Null, Cell::Json);
    let event = event.clone();
    [
        event.chat_id.into(),
        event.event_index.into(),
        event.utc_time.and_then(when::iso).into(),
        event.kind.into(),
        event.party_type.into(),
        event.nickname.into(),
        event.participant_id.into(),
        event.text.into(),
        event.message_type.into(),
        json(event.user_data),
        json(event.event_attributes),
        event.utc_time.into(),
        event.recorded_at.into(),
        event.node.into(),
        event.run_id.into(),
        variants_cell(variants, content),
    ]
}

/// The kinds of other content, or with `content` all there is of it.
fn variants_cell(variants: &[Variant], content: bool) -> Cell {
    let objects: Vec<_> = variants
        .iter()
        .map(|variant| {
            let raw = if content { Cell::Json(variant.raw.clone()) } else { Cell::Null };
            let cells = [variant.kind.as_str().into(), raw, variant.recorded_at.into(), variant.node.clone().into()];
            output::json_object(&VARIANT_NAMES, &cells)
        })
        .collect();
    output::json_array(&objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::captured;
    use crate::store::read::fixture::Fixture;

    async fn printed(args: Args, format: Format) -> anyhow::Result<String> {
        let archive = Fixture::example().await;
        captured(format, 80, async |output| {
            print(&args, std::slice::from_ref(&archive.path), &Clock::berlin(), output).await
        })
        .await
    }

    fn of(chat_id: &str) -> Args {
        Args { chat_id: chat_id.into(), ..Args::default() }
    }

    #[tokio::test]
    async fn a_chat_reads_as_it_was() {
        let args = Args { errors: true, variants: true, ..of("c1") };
        let wanted = include_str!("../../tests/fixtures/transcript_c1.txt");
        assert_eq!(printed(args, Format::Text).await.expect("printed"), wanted);
    }

    #[tokio::test]
    async fn holes_are_shown_where_they_are() {
        let text = printed(of("c2"), Format::Text).await.expect("printed");
        let body = text.split_once("14:03:20  Client").expect("a first line").1;
        let wanted = "  Åsa  │ one
                       · hidden by GMS from these clients: 2 to 5
                       ? not covered: 6 to 7
14:06:40  Client  Åsa  │ kept, though not covered
                       ? not covered: 9
                       · hidden by GMS from these clients: 10
14:08:20  Client  Åsa  │ eleven
";
        assert_eq!(body, wanted);
        assert!(text.contains("incomplete: the chat ended, 1 hole"), "{text}");
    }

    #[tokio::test]
    async fn an_event_of_which_nothing_is_known_is_printed() {
        let text = printed(of("c3"), Format::Text).await.expect("printed");
        assert!(text.ends_with("--:--:--      │\n"), "{text}");
        assert!(text.contains("unfinished: no end was seen"), "{text}");
    }

    #[tokio::test]
    async fn typing_and_errors_are_shown_when_asked_for() {
        let plain = printed(of("c1"), Format::Text).await.expect("printed");
        assert!(!plain.contains("typing") && !plain.contains("code 249"));
        assert!(plain.contains("≠ delivered with other content too") && !plain.contains("\"text\":\"Hello\""));
        let typing = printed(Args { typing: true, ..of("c1") }, Format::Text).await.expect("printed");
        assert!(typing.contains("14:00:11  Agent     Max     … is typing\n"), "{typing}");
    }

    #[tokio::test]
    async fn an_unknown_chat_is_a_failure() {
        let why = printed(of("no\u{1b}such"), Format::Text).await.expect_err("unknown").to_string();
        assert!(why.starts_with("there is no chat no␛such in /"), "{why}");
    }

    #[tokio::test]
    async fn records_hold_every_field() {
        let json = printed(Args { variants: true, errors: true, ..of("c1") }, Format::Json).await.expect("printed");
        let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(lines.len(), 13 + 1, "thirteen events without typing, and one error");
        assert_eq!(lines[1]["at"], "2026-11-23T13:00:05.000Z");
        assert_eq!(lines[1]["utc_time"], 1_795_438_805_000_i64);
        assert_eq!(lines[1]["variants"][0]["raw"]["text"], "Hello");
        assert_eq!(lines[4]["user_data"]["file-name"], "invoice.pdf");
        assert_eq!(lines[9]["text"], "evil \u{1b}[2J\u{202e}fdp.exe");
        assert_eq!(lines[13]["reference_id"], "10016629");

        let csv = printed(of("c3"), Format::Csv).await.expect("printed");
        assert_eq!(csv, format!("{}\r\nc3,1,,Message,,,,,,,,,1,,1,[]\r\n", NAMES.join(",")));
        let refused = printed(Args { errors: true, ..of("c1") }, Format::Csv).await.expect_err("refused");
        assert!(refused.downcast_ref::<Usage>().is_some());
    }

    #[test]
    fn gaps_part_where_holes_do() {
        let holes = [Stretch { from: 6, next: 10 }, Stretch { from: 12, next: 14 }];
        let covered = |from, next| Gap { from, next, why: Why::Hidden };
        let hole = |from, next| Gap { from, next, why: Why::Uncovered };
        let erased = |from, next| Gap { from, next, why: Why::Erased };
        let rows = [
            ((1, 1), vec![]),
            ((2, 4), vec![covered(2, 4)]),
            ((2, 8), vec![covered(2, 6), hole(6, 8)]),
            ((7, 9), vec![hole(7, 9)]),
            ((8, 8), vec![]),
            ((9, 20), vec![hole(9, 10), covered(10, 12), hole(12, 14), covered(14, 20)]),
            ((10, 12), vec![covered(10, 12)]),
            ((20, 0), vec![]),
            ((1, 5), vec![erased(1, 4), covered(4, 5)]),
            ((1, 3), vec![erased(1, 3)]),
        ];
        for ((from, next), wanted) in rows {
            assert_eq!(gaps(from, next, if from == 1 { 4 } else { 1 }, &holes), wanted, "{from} to {next}");
        }
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, wanted) in [(0, "0 bytes"), (1023, "1023 bytes"), (12_698, "12.4 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes_for_people(bytes), wanted);
        }
    }
}
