//! What is let through: `allow` and `deny`, by route class and by normalised path.

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

    /// Whether a request may pass. The path is judged as a node would read it.
    pub fn admits(&self, route: &Route<'_>, path: &str) -> bool {
        if self.allow.is_empty() && self.deny.is_empty() {
            return true;
        }
        let path = normalised(path);
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.covers(route, &path));
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

    #[test]
    fn lists_are_judged_by_class_and_by_the_path_a_node_reads() {
        let check = |allow: &[&str], deny: &[&str], path: &str, passes: bool| {
            let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let access = Access::new(&own(allow), &own(deny)).expect("valid lists");
            let route = Route::parse("POST", path, "/genesys");
            assert_eq!(access.admits(&route, path), passes, "{path} with {allow:?}, {deny:?}");
        };
        check(&[], &[], "/genesys/admin", true);
        check(&["chat"], &[], "/genesys/2/chat/svc/C1/send", true);
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

    #[test]
    fn a_wrong_entry_is_explained() {
        let error = Access::new(&["chats".into()], &[]).expect_err("no such class");
        assert!(error.contains("chats") && error.contains("cometd"), "{error}");
    }
}
