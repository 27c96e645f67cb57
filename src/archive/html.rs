//! Pages that stand alone: nothing is loaded, no script runs, whatever a text in them may get past the escaping.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::export::words::legible_line;

/// How text and tables look, on a screen and in print.
pub const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: start; vertical-align: top; padding: .25em .6em; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
th { font-weight: 600; color: #444 }
td.text { white-space: pre-wrap; width: 60%; unicode-bidi: isolate }
td.time, td.number { white-space: nowrap; font-variant-numeric: tabular-nums; color: #444 }
bdi { unicode-bidi: isolate }
.client { background: #f1f6fd } .note { color: #8a4b00 } .quiet td { color: #555 }
footer { margin-top: 2em; color: #555; font-size: .85em }
@media print { body { margin: 0; max-width: none; font-size: 10pt } tr { break-inside: avoid } thead { display: table-header-group }
  .client { background: none } }
";

/// A page up to what is in its body. Only this style is let in, by its hash (W3C CSP 3).
///
/// # Errors
/// As the writer.
pub fn begin(to: &mut impl Write, title: &str, style: &str) -> io::Result<()> {
    let hash = BASE64_STANDARD.encode(Sha256::digest(style));
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'");
    let title = escaped(&legible_line(title));
    writeln!(to, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(to, "<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">")?;
    writeln!(
        to,
        "<meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"referrer\" content=\"no-referrer\">"
    )?;
    writeln!(to, "<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>")
}

/// A text within an element or a quoted attribute.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
