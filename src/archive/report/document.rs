//! A report in words: what its forms for eyes have in common. Texts in it are as they are; whoever shows them makes them safe.

use super::chart::Chart;

/// A report, ready to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What it is of.
    pub title: String,
    /// More of that.
    pub facts: Vec<(String, String)>,
    /// What it comes to.
    pub verdict: Vec<Remark>,
    /// The rest.
    pub sections: Vec<Section>,
    /// What whoever signs it signs.
    pub signed: Vec<(String, String)>,
}

/// A sentence, and whether it is good news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Whether it is.
    pub tone: Tone,
    /// The sentence.
    pub text: String,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It is.
    Good,
    /// It is to be known.
    Note,
    /// It is not.
    Bad,
}

impl Tone {
    /// The same for those who see no colours.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Bad => "attention",
        }
    }
}

/// A part with a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// For links to it.
    pub id: &'static str,
    /// The heading.
    pub title: &'static str,
    /// What is in it.
    pub blocks: Vec<Block>,
}

/// What a section is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A paragraph.
    Words(String),
    /// Names and values.
    Facts(Vec<(String, String)>),
    /// Rows.
    Table(Table),
    /// A picture of what a table beside it says.
    Chart(Chart),
    /// Something to be typed.
    Command(String),
}

/// Rows with a caption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// What they are.
    pub caption: String,
    /// Names of columns; numbers end in `>`.
    pub columns: Vec<&'static str>,
    /// Finished texts.
    pub rows: Vec<Vec<String>>,
    /// What is not in it.
    pub left_out: Option<String>,
}

impl Table {
    /// One without rows.
    pub fn new(caption: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { caption: caption.into(), columns: columns.to_vec(), ..Self::default() }
    }

    /// With these rows.
    #[must_use]
    pub fn with(self, rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        Self { rows: rows.into_iter().collect(), ..self }
    }
}
