//! A report as a page: one file, self-contained, without script, to be read, printed and signed.

use std::io::{self, Write};
use std::sync::LazyLock;

use super::document::{Block, Document, Remark, Section, Table};
use crate::archive::export::words::legible_line;
use crate::archive::html::{self, escaped};

/// Beyond what all pages have. Colours keep a contrast of 4.5 to white, and none says something alone.
const STYLE: &str = "
body { max-width: 52em }
header { border-bottom: 3px solid #1f4e79; margin-bottom: 1.2em }
h1 { font-size: 1.7em; margin: 0 0 .3em; color: #12324f } h2 { font-size: 1.25em; color: #12324f; border-bottom: 1px solid #c9d3dd; padding-bottom: .2em }
table { font-size: .92em; margin-bottom: .8em } caption { text-align: start; font-weight: 600; padding: .9em .6em .3em } figcaption { font-size: .92em; font-weight: 600; padding: .9em .6em .3em }
td.number, th.number { text-align: end } .facts th { width: 13em; font-weight: 600 } .facts { margin: .4em 0 1em }
thead th { background: #f2f5f8; color: #22303c; overflow-wrap: normal } td.number { white-space: nowrap } tbody td:not(.number) { min-width: 3.5em } tbody td:first-child:not(.number) { min-width: 11em }
.verdict { border: 1px solid #c9d3dd; border-radius: 6px; padding: .3em 1em; background: #fafbfc; break-inside: avoid }
.verdict p { margin: .6em 0; display: flex; gap: .7em; align-items: flex-start }
.tone { flex: none; width: 6.2em; margin-top: .2em; text-align: center; font-size: .82em; font-weight: 700; border-radius: 3px; color: #fff }
.good .tone { background: #1d6b3a } .note .tone { background: #53606c } .attention .tone { background: #a3261b } .verdict .note { color: inherit }
nav ol { columns: 2; padding-inline-start: 1.4em } nav a, a { color: #1f4e79 }
figure { margin: .8em 0; break-inside: avoid } svg { width: 100%; height: auto; font: 11px system-ui, sans-serif }
svg .tick { fill: #3c4854 } svg .grid { stroke: #d5dce3; stroke-width: 1 }
.s0 { fill: #1f5f99 } .s1 { fill: #c4561a } .s2 { fill: #2f7d4f } .s3 { fill: #7a4fa3 } .s4 { fill: #a3261b } .s5 { fill: #8a6d00 } .s6 { fill: #3f7f8c } .s7 { fill: #6b7680 }
.on { fill: #2f7d4f } .off { fill: #a3261b } .impaired { fill: #b86e12 } .unknown { fill: #dfe5eb } .before { fill: #7d8a96 }
code { font: .9em ui-monospace, monospace; background: #f2f5f8; padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere } p.command { margin: .3em 0 }
.left-out { color: #53606c; font-size: .9em }
.signature { break-inside: avoid; margin-top: 3em; border-top: 3px solid #1f4e79 }
.lines { display: grid; grid-template-columns: 1fr 1fr; gap: 3.2em 2em; margin-top: 3.5em } .lines div { border-top: 1px solid #1a1a1a; padding-top: .3em; font-size: .9em; color: #333 }
@page { size: A4; margin: 18mm 16mm 20mm; @bottom-right { content: counter(page) ' / ' counter(pages); font: 9pt system-ui, sans-serif; color: #53606c } }
@media print { h2 { break-after: avoid } caption { break-after: avoid } .verdict, thead th, .tone, svg rect { -webkit-print-color-adjust: exact; print-color-adjust: exact } nav { break-after: auto } }
";

static WHOLE_STYLE: LazyLock<String> = LazyLock::new(|| format!("{}{STYLE}", html::STYLE));

/// Lines that somebody fills in by hand.
const LINES: [&str; 4] = ["Name and function", "Place and date", "Signature", "Second signature, where one is wanted"];

/// Writes the page.
///
/// # Errors
/// As the writer.
pub fn page(to: &mut impl Write, document: &Document) -> io::Result<()> {
    html::begin(to, &document.title, &WHOLE_STYLE)?;
    writeln!(to, "<header>\n<h1>{}</h1>", text(&document.title))?;
    facts(to, &document.facts)?;
    writeln!(to, "</header>\n<main>\n<section class=\"verdict\" aria-label=\"What it comes to\">")?;
    document.verdict.iter().try_for_each(|said| remark(to, said))?;
    writeln!(to, "</section>\n<nav aria-label=\"Contents\">\n<h2>Contents</h2>\n<ol>")?;
    for Section { id, title, .. } in &document.sections {
        writeln!(to, "<li><a href=\"#{id}\">{}</a></li>", text(title))?;
    }
    writeln!(to, "<li><a href=\"#signature\">Signature</a></li>\n</ol>\n</nav>")?;
    for Section { id, title, blocks } in &document.sections {
        writeln!(to, "<section id=\"{id}\">\n<h2>{}</h2>", text(title))?;
        blocks.iter().try_for_each(|one| block(to, one))?;
        writeln!(to, "</section>")?;
    }
    signature(to, &document.signed)?;
    writeln!(to, "</main>\n</body>\n</html>")
}

/// On one line, as it can be read and does nothing.
fn text(text: &str) -> String {
    escaped(&legible_line(text))
}

/// The same, of what this program says: between a pair of backticks stands something to be typed.
fn words(said: &str) -> String {
    let parts: Vec<&str> = said.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return text(said);
    }
    let part =
        |(at, part): (usize, &&str)| if at % 2 == 1 { format!("<code>{}</code>", text(part)) } else { text(part) };
    parts.iter().enumerate().map(part).collect()
}

fn remark(to: &mut impl Write, Remark { tone, text: said }: &Remark) -> io::Result<()> {
    let word = tone.word();
    writeln!(to, "<p class=\"{word}\"><span class=\"tone\">{word}</span><span>{}</span></p>", words(said))
}

fn block(to: &mut impl Write, block: &Block) -> io::Result<()> {
    match block {
        Block::Words(said) => writeln!(to, "<p>{}</p>", words(said)),
        Block::Facts(pairs) => facts(to, pairs),
        Block::Table(rows) => table(to, rows),
        Block::Chart(chart) => {
            writeln!(to, "<figure><figcaption>{}</figcaption>{}</figure>", text(chart.title()), chart.svg())
        }
        Block::Command(command) => writeln!(to, "<p class=\"command\"><code>{}</code></p>", text(command)),
    }
}

fn facts(to: &mut impl Write, facts: &[(String, String)]) -> io::Result<()> {
    writeln!(to, "<table class=\"facts\">\n<tbody>")?;
    for (name, value) in facts {
        writeln!(to, "<tr><th scope=\"row\">{}</th><td><bdi>{}</bdi></td></tr>", text(name), text(value))?;
    }
    writeln!(to, "</tbody>\n</table>")
}

fn table(to: &mut impl Write, table: &Table) -> io::Result<()> {
    writeln!(to, "<table>\n<caption>{}</caption>\n<thead><tr>", text(&table.caption))?;
    let class = |name: &str| if name.ends_with('>') { " class=\"number\"" } else { "" };
    for name in &table.columns {
        write!(to, "<th scope=\"col\"{}>{}</th>", class(name), text(name.trim_end_matches('>')))?;
    }
    writeln!(to, "</tr></thead>\n<tbody>")?;
    for row in &table.rows {
        write!(to, "<tr>")?;
        for (name, cell) in table.columns.iter().zip(row) {
            write!(to, "<td{}><bdi>{}</bdi></td>", class(name), text(cell))?;
        }
        writeln!(to, "</tr>")?;
    }
    writeln!(to, "</tbody>\n</table>")?;
    match &table.left_out {
        Some(left_out) => writeln!(to, "<p class=\"left-out\">{}</p>", words(left_out)),
        None => Ok(()),
    }
}

fn signature(to: &mut impl Write, signed: &[(String, String)]) -> io::Result<()> {
    writeln!(to, "<section id=\"signature\" class=\"signature\">\n<h2>Signature</h2>")?;
    writeln!(to, "<p>I have read this report and hold it to be true as far as I can tell.</p>")?;
    facts(to, signed)?;
    writeln!(to, "<div class=\"lines\">")?;
    for line in LINES {
        writeln!(to, "<div>{line}</div>")?;
    }
    writeln!(to, "</div>\n</section>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_stands_out_and_nothing_is_obeyed() {
        for (said, wanted) in [
            ("Run `verify --anchor`.", "Run <code>verify --anchor</code>."),
            ("a ` alone", "a ` alone"),
            ("`<b>` <i>", "<code>&lt;b&gt;</code> &lt;i&gt;"),
        ] {
            assert_eq!(words(said), wanted);
        }
    }
}
