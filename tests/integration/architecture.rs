//! What holds the building up: imports point down, the texts tell the same story, old archives open.

use std::path::{Path, PathBuf};

/// `lib.rs` lists the floors, ground first; no floor imports from one above it.
#[test]
fn imports_only_point_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(source.join("lib.rs")).expect("there is a lib.rs");
    let floors: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(floors.len() > 5, "{floors:?}");
    for (height, floor) in floors.iter().enumerate() {
        for file in rust_files(&source, floor) {
            let text = std::fs::read_to_string(&file).expect("it was listed");
            for (above, name) in floors.iter().enumerate().skip(height + 1) {
                let _ = above;
                let import = format!("crate::{name}");
                let found = text.lines().find(|line| mentions(line, &import));
                assert!(found.is_none(), "{} is below {name} and says: {}", file.display(), found.unwrap_or_default());
            }
        }
    }
}

/// The path itself, not one that merely begins like it; comments may name what they like.
fn mentions(line: &str, path: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(path)
        .any(|(at, _)| !code[at + path.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn rust_files(source: &Path, floor: &str) -> Vec<PathBuf> {
    let mut files = vec![source.join(format!("{floor}.rs"))];
    let mut folders = vec![source.join(floor)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push(path),
            }
        }
    }
    files.retain(|file| file.extension().is_some_and(|ending| ending == "rs") && file.exists());
    files
}

/// A third-party crate lives on one floor.
#[test]
fn crates_live_on_their_floors() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(source.join("lib.rs")).expect("there is a lib.rs");
    let floors = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for floor in floors {
        for file in rust_files(&source, floor) {
            let text = std::fs::read_to_string(&file).expect("it was listed");
            for (name, home) in [
                ("sqlx", "store"),
                ("rusqlite", "store"),
                ("clap", "cli"),
                ("prometheus_client", "telemetry proxy"),
                // `ureq` speaks TLS by itself, and is only told whose cryptography.
                ("rustls", "proxy archive/anchor/web.rs"),
                ("ureq", "archive"),
                ("tokio_rustls", "proxy"),
                ("x509_cert", "proxy"),
                ("aws_lc_rs::signature", "archive"),
                ("hyper", "proxy admin simulator cli"),
            ] {
                let used = text.lines().any(|line| {
                    mentions(line, &format!("use {name}"))
                        || line.contains(&format!("{name}::")) && !line.trim_start().starts_with("//")
                });
                let is_home = home.split(' ').any(|home| home == floor || file.ends_with(home));
                assert!(!used || is_home, "{name} lives in {home}, and {} uses it", file.display());
            }
        }
    }
}
