//! What the backup does not know was erased, purged, masked, held and released, and the commands that do it again.

use std::path::Path;

use crate::cli::output::{counted, plain_line};
use crate::store::custody::{Scope, Undone};

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
    (!undone.is_empty()).then(|| format!("{} {what}", parts.join(", ")))
}

pub(super) fn length<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

/// What does it again, holds first: they win. Where too many chats were erased to name them, what lists them from the archive
/// that is kept.
pub(super) fn commands(undone: &Undone, database: &Path, kept: &Path) -> Vec<String> {
    let on = |path: &Path| format!("--database {}", word(&path.display().to_string()));
    let mut commands: Vec<String> = undone
        .holds
        .iter()
        .map(|hold| {
            let (option, value) = match &hold.scope {
                Scope::Chat(chat_id) => ("--chat", chat_id.clone()),
                Scope::Customer(customer) => ("--who", customer.to_string()),
                Scope::Query(query) => ("--query", query.clone()),
            };
            format!("gms-recorder hold {option} {} --reason {} {}", word(&value), word(&hold.reason), on(database))
        })
        .collect();
    let reason = "--reason 'again, after a restore'";
    let released =
        undone.released.iter().map(|hold| format!("gms-recorder unhold {} {reason} {}", hold.id, on(database)));
    commands.extend(released);
    let rules =
        undone.masked.iter().map(|rule| format!("gms-recorder mask --rule {} {reason} {}", word(rule), on(database)));
    commands.extend(rules);
    let erase = |chats: &[String]| {
        let chats: String = chats.iter().map(|chat_id| format!(" --chat {}", word(chat_id))).collect();
        format!("gms-recorder erase{chats} {reason} {}", on(database))
    };
    if !undone.waiting.is_empty() {
        commands.push(erase(&undone.waiting)); // they wait again
    }
    if let Some(from) = undone.erased_from {
        commands.push(match usize::try_from(undone.erased) == Ok(undone.chats.len()) {
            true => erase(&undone.chats),
            false => {
                let sql = format!("SELECT DISTINCT chat_id FROM erasures WHERE how = 'erased' AND id >= {from}");
                format!("gms-recorder sql {} {}", word(&sql), on(kept))
            }
        });
    }
    if undone.purged > 0 {
        commands.push("gms-recorder purge".into());
    }
    commands.iter().map(|command| plain_line(command)).collect()
}

/// As a shell takes it for one.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::custody::{Asker, Hold};

    #[test]
    fn what_is_too_much_to_name_is_listed_from_the_kept_archive() {
        let chats = vec!["a".into(), "it's".into()];
        let few = Undone { erased: 2, purged: 1, chats, erased_from: Some(7), ..Undone::default() };
        let (database, kept) = (Path::new("/a.db"), Path::new("/a b.db"));
        let wanted = r"gms-recorder erase --chat a --chat 'it'\''s' --reason 'again, after a restore' --database /a.db";
        assert_eq!(commands(&few, database, kept), [wanted, "gms-recorder purge"]);
        let many = Undone { erased: 3, purged: 0, ..few };
        let told = commands(&many, database, kept);
        assert!(told[0].ends_with("AND id >= 7' --database '/a b.db'"), "{told:?}");
        assert!(in_words(&many).is_some_and(|said| said.starts_with("3 chats erased after")));
        assert_eq!(in_words(&Undone::default()), None);
    }

    #[test]
    fn maskings_and_releases_are_told() {
        let hold = |id| Hold {
            id,
            at: 1,
            reason: "audit".into(),
            scope: Scope::Chat("c".into()),
            released_at: Some(2),
            set_by: Asker::default(),
        };
        let (released, waiting, masked) = (vec![hold(7)], vec!["w".into()], vec!["account".into()]);
        let undone = Undone { released, waiting, masked, ..Undone::default() };
        let again = "--reason 'again, after a restore' --database a.db";
        let wanted = [
            format!("gms-recorder unhold 7 {again}"),
            format!("gms-recorder mask --rule account {again}"),
            format!("gms-recorder erase --chat w {again}"),
        ];
        assert_eq!(commands(&undone, Path::new("a.db"), Path::new("b.db")), wanted);
        let said = "1 rule applied by `mask`, 1 hold released, 1 erasure put off by a hold after";
        assert!(in_words(&undone).is_some_and(|words| words.starts_with(said)));
    }
}
