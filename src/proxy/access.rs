//! What is let through: `allow` and `deny`, by route class and by normalised path.

use super::answer::Refusal;
use crate::gms::route::normalised;
use crate::gms::{Route, RouteClass};

/// The two lists. An empty `allow` lets everything through; `deny` is stronger.
#[derive(Debug, Clone, Default)]
pub struct Access {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Class(RouteClass),
    Prefix(String),
}

impl Access {
    /// Reads the lists of the configuration.
    ///
    /// # Errors
    /// A sentence for an entry that is neither a route class nor a path.
    pub fn new(allow: &[String], deny: &[String]) -> Result<Self, String> {
        let rules = |entries: &[String]| entries.iter().map(|entry| Rule::parse(entry)).collect::<Result<Vec<_>, _>>();
        Ok(Self { allow: rules(allow)?, deny: rules(deny)? })
    }

    /// Whether a request may pass. The path is judged as a node would read it: as GMS's own server does, first of all.
    ///
    /// # Errors
    /// [`Refusal::Denied`]; or [`Refusal::AmbiguousPath`] where another reader of the same path could be led to what is not
    /// let through here, or to what is recorded and would not be.
    pub fn admit(&self, route: &Route<'_>, path: &str, base_path: &str) -> Result<(), Refusal> {
        if !self.is_empty() && !self.admits(route, &normalised(path)) {
            return Err(Refusal::Denied);
        }
        if route.has_one_reading {
            return Ok(());
        }
        let elsewhere = Route::elsewhere(path, base_path).ok_or(Refusal::AmbiguousPath)?;
        let is_same = |(path, other): &(String, Route<'_>)| {
            let dodges = other.is_inspected() && other.class != route.class;
            !dodges && (self.is_empty() || self.admits(other, path))
        };
        elsewhere.iter().all(is_same).then_some(()).ok_or(Refusal::AmbiguousPath)
    }

    fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    fn admits(&self, route: &Route<'_>, path: &str) -> bool {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.covers(route, path));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

impl Rule {
    fn parse(entry: &str) -> Result<Self, String> {
        if entry.starts_with('/') {
            return Ok(Self::Prefix(entry.trim_end_matches('/').into()));
        }
        let class = entry.parse().map(Self::Class);
        class.map_err(|error: String| format!("{error}, or a path that starts with /"))
    }

    fn covers(&self, route: &Route<'_>, path: &str) -> bool {
        match self {
            Self::Class(class) => route.class == *class,
            // A prefix ends where a segment ends: /genesys/1 does not cover /genesys/10.
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(allow: &[&str], deny: &[&str], path: &str) -> Result<(), Refusal> {
        let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let access = Access::new(&own(allow), &own(deny)).expect("valid lists");
        access.admit(&Route::parse("POST", path, "/genesys"), path, "/genesys")
    }

    #[test]
    fn lists_are_judged_by_class_and_by_the_path_a_node_reads() {
        let check = |allow: &[&str], deny: &[&str], path: &str, passes: bool| {
            assert_eq!(admit(allow, deny, path).is_ok(), passes, "{path} with {allow:?}, {deny:?}");
        };
        check(&[], &[], "/genesys/admin", true);
        check(&["chat"], &[], "/genesys/2/chat/svc/C1/send", true);
        check(&["chat"], &[], "/genesys/2/chat/my%20svc/C1/send;jsessionid=1", true);
        check(&["chat"], &[], "/genesys/2/email/svc", false);
        check(&["/genesys/2"], &[], "/genesys/2/email/svc", true);
        check(&["/genesys/2"], &[], "/genesys/20", false);
        check(&["/genesys/2"], &[], "/genesys/2/../admin", false);
        check(&["/genesys/2"], &[], "/genesys/2/%2e%2e/admin", false);
        check(&["/genesys/2"], &[], "/genesys/2/..;x/admin", false);
        check(&[], &["/genesys/admin"], "/genesys//admin/x", false);
        check(&[], &["/genesys/admin"], "/genesys/%61dmin", false);
        check(&[], &["cometd"], "/genesys/cometd", false);
    }

    /// What stands between what is let through and what is not, so that some reader comes out at the other end.
    const ESCAPES: [&str; 58] = [
        "../",
        "./../",
        "..//",
        "//../",
        "%2e%2e/",
        "%2E%2e/",
        ".%2e/",
        "%2e./",
        "..%2f",
        "..%2F",
        "%2e%2e%2f",
        "%2f../",
        "%2f%2e%2e%2f",
        "..;/",
        "..;x=y/",
        "..;jsessionid=1/",
        ";x/../",
        ";/../",
        "..%3b/",
        "..%3bx/",
        "%2e%2e;/",
        "%2e%2e;x/",
        "%2e%2e%3b/",
        ".;/../",
        "..\\",
        "..%5c",
        "..%5C",
        "\\..\\",
        "%5c../",
        "%5c..%5c",
        ".\\..\\",
        "..;\\",
        "%252e%252e/",
        "%252e%252e%252f",
        "..%252f",
        "..%255c",
        "%252e./",
        "%25252e%25252e/",
        "%2525252e./",
        "%252e%252e%253b/",
        "..%253b/",
        "%%32%65%%32%65/",
        "%25%32%65%25%32%65/",
        "..%00/",
        "%00../",
        "..%0d/",
        "..%0a/",
        "..%01/",
        "..%7f/",
        "%c0%ae%c0%ae/",
        "..%c0%af",
        "..%e0%80%af",
        "%e0%80%ae./",
        "..%f0%80%80%af",
        "%u002e%u002e/",
        "..%u002f",
        "..%u005c",
        "x/../../",
    ];

    #[test]
    fn no_reading_of_a_path_escapes_the_lists() {
        for escape in ESCAPES {
            let path = format!("/genesys/2/chat/{escape}{escape}{escape}admin/x");
            assert!(admit(&["/genesys/2/chat"], &[], &path).is_err(), "{path}");
            assert!(admit(&["chat"], &[], &path).is_err(), "{path}");
            let path = format!("/genesys/2/chat/{escape}{escape}1/admin");
            assert!(admit(&[], &["/genesys/1"], &path).is_err(), "{path}");
        }
    }

    /// Either it is read by us as the chat that a node may take it for, or it is refused.
    #[test]
    fn no_reading_of_a_path_dodges_inspection() {
        for escape in ESCAPES {
            for path in [
                format!("/genesys/1/{escape}2/chat/s/ID/refresh"),
                format!("/genesys/1/x/{escape}{escape}2/chat/s/ID/refresh"),
                format!("/genesys/1/{escape}cometd"),
            ] {
                let is_read = Route::parse("POST", &path, "/genesys").is_inspected();
                assert!(is_read || admit(&[], &[], &path).is_err(), "{path}");
            }
        }
        for disguised in
            ["/genesys/2/chat%2fs/ID/send", "/genesys/%32/ch%61t/s/ID/send", "/genesys/2/%2563hat/s/ID/send"]
        {
            let is_read = Route::parse("POST", disguised, "/genesys").is_inspected();
            assert!(is_read || admit(&[], &[], disguised).is_err(), "{disguised}");
        }
    }

    #[test]
    fn honest_paths_pass_however_odd_they_are() {
        for path in [
            "/",
            "*",
            "//",
            "/genesys/2/chat/my%20service/ID/send",
            "/genesys/2/chat/a%2fb/ID/send",
            "/genesys/1/storage/a%20b",
            "/genesys/1/storage/%C3%BC.png",
            "/genesys/1/storage/%fc",
            "/genesys/1/storage/100%25",
            "/genesys/1/storage/a%2Fb",
            "/genesys/.well-known/x",
            "/genesys/1/storage/x;v=1",
            "/genesys/1/storage/%zz",
            "/genesys/a/../1/x",
            "/%e2%82%ac",
        ] {
            assert_eq!(admit(&[], &[], path), Ok(()), "{path}");
        }
    }

    #[test]
    fn a_wrong_entry_is_explained() {
        let error = Access::new(&["chats".into()], &[]).expect_err("no such class");
        assert!(error.contains("chats") && error.contains("cometd"), "{error}");
    }
}
