//! What happened in a chat, in words, for formats that people read. Pure.

use std::borrow::Cow;

use serde_json::Value;

use crate::store::audit::extract::Record;

/// Whether an event only says that somebody types: pages, mails and XML leave these out.
pub fn is_typing(event: &Record) -> bool {
    matches!(event.text("type"), Some("TypingStarted" | "TypingStopped"))
}

/// By whom: the nickname, else the number of the participant, else what kind of party it is.
pub fn who(event: &Record) -> Cow<'_, str> {
    match (event.text("nickname").filter(|name| !name.is_empty()), event.integer("participant_id")) {
        (Some(name), _) => Cow::Borrowed(name),
        (None, Some(number)) => Cow::Owned(format!("#{number}")),
        (None, None) => Cow::Borrowed(event.text("party_type").unwrap_or("unknown")),
    }
}

/// What: the text of a message; of other events the kind, too.
pub fn what(event: &Record) -> Cow<'_, str> {
    let text = event.text("text").unwrap_or_default();
    match event.text("type") {
        Some("Message") => Cow::Borrowed(text),
        Some("ParticipantJoined") => Cow::Borrowed("[joined]"),
        Some("ParticipantLeft") => Cow::Borrowed("[left]"),
        Some("FileUploaded") => Cow::Owned(format!("[sent a file: {}]", file(event))),
        Some("FileDeleted") => Cow::Owned(format!("[deleted a file: {}]", file(event))),
        Some(kind) if text.is_empty() => Cow::Owned(format!("[{kind}]")),
        Some(kind) => Cow::Owned(format!("[{kind}] {text}")),
        None => Cow::Owned(format!("[an event without a type] {text}")),
    }
}

/// The name of a file that was sent, else its id.
pub fn file(event: &Record) -> String {
    let user_data = event.text("user_data").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let of_data = ["file-name", "file-id"].map(|name| user_data.as_ref().and_then(|data| data[name].as_str()));
    let mut names = of_data.into_iter().chain([event.text("text")]).flatten().filter(|name| !name.is_empty());
    names.next().unwrap_or("without a name").to_owned()
}

/// A text as it can be read and does nothing: control characters as their pictures, and what turns the direction of text or
/// breaks lines unseen spelt out (Unicode Technical Report 36). Line breaks and tabs stay.
pub fn legible(text: &str) -> Cow<'_, str> {
    let is_odd = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')
    };
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            c if !is_odd(c) => out.push(c),
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => out.push('␡'),
            c => out.push_str(&format!("[U+{:04X}]", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// The same on one line.
pub fn legible_line(text: &str) -> String {
    legible(text).replace('\n', "␊").replace('\t', "␉")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_is_spelt_out() {
        let rows = [
            ("plain 漢字 🙂\n\tindented", "plain 漢字 🙂\n\tindented"),
            ("a\r\nb\rc", "a\nb␍c"),
            ("evil\u{1b}[2J\u{202e}fdp.exe", "evil␛[2J[U+202E]fdp.exe"),
            ("\u{85}\u{7f}\u{2028}", "[U+0085]␡[U+2028]"),
            ("שלום\u{200f}", "שלום\u{200f}"),
        ];
        for (text, wanted) in rows {
            assert_eq!(legible(text), wanted);
        }
        assert_eq!(legible_line("a\nb\tc"), "a␊b␉c");
    }
}
