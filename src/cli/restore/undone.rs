//! What the backup does not know was erased, purged, masked, held and released, and the commands that do it again.

use std::path::Path;

use crate::cli::output::counted;
use crate::store::custody::{Done, Scope, Undone};

/// What was undone, in words. None where nothing was.
pub(super) fn in_words(undone: &Undone) -> Option<String> {
    let of = |number: i64, noun: &str, what: &str| (number > 0).then(|| format!("{} {what}", counted(number, noun)));
    let parts = [
        of(undone.erased, "chat", "erased"),
        of(undone.purged, "chat", "purged"),
        of(length(&undone.masked), "rule", "applied by `mask`"),
        of(length(&undone.holds), "hold", "set"),
        of(length(&undone.released), "hold", "released"),
        of(length(&undone.waiting), "erasure", "put off by a hold"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let what = "after this backup was made, as the archive that was there says: that is undone. Do it again";
    let held = if undone.holds.is_empty() {
        ""
    } else {
        " (holds come first, and keep what was removed or masked before they were set)"
    };
    (!undone.is_empty()).then(|| format!("{} {what}{held}:", parts.join(", ")))
}

pub(super) fn length<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

/// Where it is done again.
pub(super) struct Place<'p> {
    pub(super) database: &'p Path,
    /// What the configuration of the restore was.
    pub(super) config: Option<&'p Path>,
    /// The archive that was there.
    pub(super) kept: &'p Path,
}

/// What does it again: holds first, then releases, and at last what removes. Nothing is removed that a hold keeps, even where it was
/// before that was set. Where too many chats were erased to name them, what lists them from the archive that is kept. Each is one
/// command for a shell, of several lines where something in it has several. Where a hold cannot be shown nothing that removes is.
pub(super) fn commands(undone: &Undone, place: &Place<'_>) -> Vec<String> {
    let option = |name: &str, value: &str| format!(" --{name}={}", word(value));
    let path = |name: &str, path: &Path| option(name, &path.display().to_string());
    let ends = format!(
        "{}{}",
        path("database", place.database),
        place.config.map_or(String::new(), |config| path("config", config))
    );
    let why = |reason: &Option<String>, case_ref: &Option<String>| {
        let reason = option("reason", reason.as_deref().unwrap_or("again, after a restore"));
        case_ref.as_ref().map_or(reason.clone(), |case_ref| format!("{reason}{}", option("case", case_ref)))
    };
    // One command for all that was asked for with the same words.
    let erase = |chats: &[Done<String>]| {
        let mut asked: Vec<(String, String)> = Vec::new();
        for Done { what, reason, case_ref } in chats {
            let (chat, why) = (option("chat", what), why(reason, case_ref));
            match asked.iter_mut().find(|(_, words)| *words == why) {
                Some((chats, _)) => chats.push_str(&chat),
                None => asked.push((chat, why)),
            }
        }
        asked.into_iter().map(|(chats, why)| format!("gms-recorder erase{chats}{why}{ends}")).collect::<Vec<_>>()
    };
    let mut commands: Vec<String> = Vec::new();
    let kept = path("database", place.kept);
    for hold in &undone.holds {
        let on = match &hold.scope {
            Scope::Chat(chat_id) => option("chat", chat_id),
            Scope::Customer(customer) => option("who", &customer.to_string()),
            Scope::Query(query) => option("query", query),
        };
        let why = why(&Some(hold.reason.clone()), &hold.set_by.case_ref);
        commands.push(format!("gms-recorder hold{on}{why}{ends}"));
    }
    // By its id too: what its hold goes by may be known since then only.
    for chat_id in &undone.held {
        let why = option("reason", "it was on hold before the restore");
        commands.push(format!("gms-recorder hold{}{why}{ends}", option("chat", chat_id)));
    }
    for Done { what, reason, case_ref } in &undone.released {
        commands.push(format!("gms-recorder unhold {what}{}{ends}", why(reason, case_ref)));
    }
    let unshown = commands.iter().filter(|command| !is_printable(command)).count();
    if unshown > 0 {
        let list = format!("gms-recorder hold --list --format=json{kept}");
        let what = format!(
            "{unshown} of the commands for holds would have characters that a terminal obeys: see {list}, and access, for what was done"
        );
        return vec![format!("echo {}", word(&what))];
    }
    for Done { what, reason, case_ref } in &undone.masked {
        commands.push(format!("gms-recorder mask{}{}{ends}", option("rule", what), why(reason, case_ref)));
    }
    if !undone.waiting.is_empty() {
        commands.extend(erase(&undone.waiting)); // what is held waits again
    }
    if let Some(from) = undone.erased_from {
        match usize::try_from(undone.erased) == Ok(undone.chats.len()) {
            true => commands.extend(erase(&undone.chats)),
            false => {
                let sql = format!("SELECT DISTINCT chat_id FROM erasures WHERE how = 'erased' AND id >= {from}");
                commands.push(format!("gms-recorder sql {}{kept}", word(&sql)));
            }
        }
    }
    if undone.purged > 0 {
        commands.push(format!("gms-recorder purge{ends}"));
    }
    commands
}

/// As a shell takes it for one.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// A command is printed as it is or not at all: another query would hold something else, and what it held would be erased by the
/// next command. Lines stay lines; what a terminal would take for an order is not shown.
fn is_printable(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::custody::{Asker, Hold};

    fn told(undone: &Undone, config: Option<&str>) -> Vec<String> {
        let (database, kept) = (Path::new("/a.db"), Path::new("/a b.db"));
        commands(undone, &Place { database, config: config.map(Path::new), kept })
    }

    #[test]
    fn what_is_too_much_to_name_is_listed_from_the_kept_archive() {
        let chats = ["a", "it's"].map(|what| Done { what: what.into(), reason: None, case_ref: None }).into();
        let few = Undone { erased: 2, purged: 1, chats, erased_from: Some(7), ..Undone::default() };
        let wanted = r"gms-recorder erase --chat=a --chat='it'\''s' --reason='again, after a restore' --database=/a.db";
        assert_eq!(told(&few, None), [wanted, "gms-recorder purge --database=/a.db"]);
        let many = Undone { erased: 3, purged: 0, ..few };
        let told = told(&many, None);
        assert!(told[0].ends_with("AND id >= 7' --database='/a b.db'"), "{told:?}");
        assert!(in_words(&many).is_some_and(|said| said.starts_with("3 chats erased after")));
        assert_eq!(in_words(&Undone::default()), None);
    }

    #[test]
    fn each_thing_is_done_again_with_its_words_and_holds_come_first() {
        let released = Done { what: 7, reason: Some("-settled".into()), case_ref: Some("L 12".into()) };
        let masked = Done { what: "account".into(), reason: None, case_ref: None };
        let scope = Scope::Query("SELECT chat_id\n\tFROM chats".into());
        let set_by = Asker { who: "anna".into(), case_ref: Some("L-1".into()) };
        let hold = Hold { id: 9, at: 4, reason: "audit".into(), scope, released_at: None, set_by, released_by: None };
        let undone = Undone {
            holds: vec![hold],
            released: vec![released],
            waiting: vec![
                Done { what: "v".into(), reason: Some("Art. 17".into()), case_ref: Some("4711".into()) },
                Done { what: "w".into(), reason: None, case_ref: None },
                Done { what: "x".into(), reason: Some("Art. 17".into()), case_ref: Some("4711".into()) },
            ],
            held: vec!["w".into()],
            masked: vec![masked],
            ..Undone::default()
        };
        let told = told(&undone, Some("c.toml"));
        let ends = "--database=/a.db --config=c.toml";
        let again = "--reason='again, after a restore'";
        let wanted = [
            format!("gms-recorder hold --query='SELECT chat_id\n\tFROM chats' --reason=audit --case=L-1 {ends}"),
            format!("gms-recorder hold --chat=w --reason='it was on hold before the restore' {ends}"),
            format!("gms-recorder unhold 7 --reason=-settled --case='L 12' {ends}"),
            format!("gms-recorder mask --rule=account {again} {ends}"),
            format!("gms-recorder erase --chat=v --chat=x --reason='Art. 17' --case=4711 {ends}"),
            format!("gms-recorder erase --chat=w {again} {ends}"),
        ];
        assert_eq!(told, wanted);
        // What cannot be shown is not made something else, and nothing that it may hold is removed.
        let mut odd = undone.clone();
        odd.holds[0].reason = "\u{1b}[2J".into();
        let told = self::told(&odd, None);
        assert!(told.len() == 1 && told[0].starts_with("echo ") && is_printable(&told[0]), "{told:?}");
        let said = "1 rule applied by `mask`, 1 hold set, 1 hold released, 3 erasures put off by a hold after";
        assert!(in_words(&undone).is_some_and(|words| words.starts_with(said)));
    }
}
