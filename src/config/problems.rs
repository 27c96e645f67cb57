//! What is wrong with a configuration, where it stands, and what would be right.

use std::fmt;

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the file, at a line counted from 1.
    File {
        /// The file as it was named.
        path: String,
        /// The line.
        line: usize,
    },
    /// By an environment variable.
    Environment(String),
    /// By a flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, if somewhere: something may also be missing everywhere.
    pub origin: Option<Origin>,
    /// The option, as `section.key`; none where the file cannot even be read.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        // A flag and a variable name their option themselves.
        let is_named = matches!(self.origin, Some(Origin::Environment(_) | Origin::Flag(_)));
        if let Some(key) = self.key.as_ref().filter(|_| !is_named) {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.sentence)
    }
}

/// Everything that is wrong, in the order of the file's lines, then of the environment, then of the flags. Not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Ok` if nothing is wrong.
    pub(super) fn or(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| (problem.origin.is_none(), problem.origin.clone()));
        Err(Self(problems))
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            let line_break = if number == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known name that an unknown one was probably meant to be.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(unknown, name);
    // A third of the letters: more in common than not, so `listne` is `listen`, but `colour` is nothing.
    let is_near = |name: &&str| distance(name) <= (unknown.chars().count() / 3).max(1);
    known.filter(is_near).min_by_key(|name| distance(name))
}
