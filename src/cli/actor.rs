//! Who runs this command, as acts name them: the user of the operating system, and who that user was before.
//!
//! It takes nobody's word: a name in the environment counts only where root put it there.

use std::fs;

use crate::store::custody::Actor;

/// Names of users.
const PASSWD: &str = "/etc/passwd";
/// Who logged in, whatever became of them by `su` and `sudo` since; nobody but root can change it (proc_pid_loginuid(5)).
const LOGIN_UID: &str = "/proc/self/loginuid";
/// Who called it, as sudo says.
const SUDO_USER: &str = "SUDO_USER";
/// No login: a service, a container.
const NO_UID: u32 = u32::MAX;

/// Who runs this, for a case.
pub fn actor(case_ref: Option<&str>) -> Actor {
    let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
    let login = fs::read_to_string(LOGIN_UID).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(NO_UID);
    let uid = rustix::process::getuid().as_raw();
    Actor {
        who: name(uid, &passwd),
        via: via(uid, std::env::var(SUDO_USER).ok(), login, &passwd),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        case_ref: case_ref.map(str::to_owned),
    }
}

/// By passwd(5), else the number: users of a directory (LDAP, SSSD) are not in that file.
fn name(uid: u32, passwd: &str) -> String {
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(of_line).unwrap_or_else(|| format!("uid {uid}"))
}

/// The caller of sudo where that is root's word, else who logged in where that was somebody else.
fn via(uid: u32, sudo_user: Option<String>, login: u32, passwd: &str) -> Option<String> {
    let sudo_user = sudo_user.filter(|name| uid == 0 && !name.is_empty());
    sudo_user.or_else(|| (login != NO_UID && login != uid).then(|| name(login, passwd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n#anna:x:\nanna:x:1000:1000:Anna,,,:/home/anna:/bin/sh\n\
                          bob:x:1000:1000::/:\n";

    #[test]
    fn users_have_the_name_that_passwd_gives_them() {
        for (uid, wanted) in [(0, "root"), (1000, "anna"), (1001, "uid 1001")] {
            assert_eq!(name(uid, PASSWD), wanted);
        }
        assert_eq!(name(0, ""), "uid 0");
    }

    /// Else anybody could read in somebody else's name.
    #[test]
    fn whoever_is_not_root_names_nobody() {
        let rows = [
            (0, Some("anna"), NO_UID, Some("anna")),
            (0, Some(""), NO_UID, None),
            (0, None, NO_UID, None),
            (0, None, 1000, Some("anna")),
            (0, Some("bob"), 1000, Some("bob")),
            (0, None, 0, None),
            (1000, Some("root"), NO_UID, None),
            (1000, Some("root"), 1000, None),
            (1001, Some("root"), 1000, Some("anna")),
        ];
        for (uid, sudo_user, login, wanted) in rows {
            let found = via(uid, sudo_user.map(str::to_owned), login, PASSWD);
            assert_eq!(found.as_deref(), wanted, "{uid} {sudo_user:?} {login}");
        }
    }

    #[test]
    fn this_test_is_run_by_somebody_somewhere() {
        let actor = actor(Some("C-7"));
        assert!(!actor.who.is_empty() && !actor.host.is_empty(), "{actor:?}");
        assert_eq!(actor.case_ref.as_deref(), Some("C-7"));
    }
}
