//! What `check` says of the files that TLS is configured with. Uses none of them.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::facts::{Facts, Urgency};
use super::files::{Authorities, Identity, Problem};
use super::{connector, server};

/// A file of certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The option that names it.
    pub option: &'static str,
    /// The file.
    pub file: PathBuf,
    /// The names its first certificate stands for.
    pub names: Vec<String>,
    /// What of it ends first; none where it cannot be used.
    pub ends_first: Option<Facts>,
    /// Why it, or the key that belongs to it, cannot be used.
    pub problem: Option<Problem>,
    /// What is wrong with it although it can be used.
    pub doubts: Vec<Problem>,
}

/// Looks at every file of certificates that is configured.
pub fn inspect(tls: &server::Config, node_tls: &connector::Config, now: Timestamp) -> Vec<Inspected> {
    let identity = |option, certificate: &PathBuf, key: &PathBuf| {
        let read = Identity::read(certificate, key);
        let usable = read.map(|one| (one.chain[0].names.clone(), one.ends_first().clone(), one.doubts(now)));
        Inspected::of(option, certificate, usable, now)
    };
    let authorities = |option, file: &PathBuf| {
        let read = Authorities::read(file);
        Inspected::of(option, file, read.map(|one| (Vec::new(), one.ends_first().clone(), one.doubts(now))), now)
    };
    let connector::Config { ca, certificate, key, server_name: _ } = node_tls;
    let ours = tls.certificates.iter().zip(&tls.keys).map(|(file, key)| identity("tls.certificates", file, key));
    let asked = (tls.client_certificates != server::ClientCertificates::None).then_some(&tls.client_ca);
    let clients = asked.map(|file| authorities("tls.client_ca", file));
    let is_set = |file: &&PathBuf| !file.as_os_str().is_empty();
    let nodes = Some(ca).filter(is_set).map(|file| authorities("node_tls.ca", file));
    let shown = Some(certificate).filter(is_set).map(|file| identity("node_tls.certificate", file, key));
    ours.chain(clients).chain(nodes).chain(shown).collect()
}

impl Inspected {
    /// Of a file that holds these names, ends with that, and has those doubts; or cannot be used.
    fn of(
        option: &'static str,
        file: &Path,
        usable: Result<(Vec<String>, Facts, Vec<Problem>), Problem>,
        now: Timestamp,
    ) -> Self {
        let file = file.to_path_buf();
        match usable {
            Ok((names, ends_first, mut doubts)) => {
                doubts.extend(ending(&ends_first, now).map(|reason| Problem::new(&file, reason)));
                Self { option, file, names, ends_first: Some(ends_first), problem: None, doubts }
            }
            Err(problem) => {
                Self { option, file, names: Vec::new(), ends_first: None, problem: Some(problem), doubts: Vec::new() }
            }
        }
    }
}

fn ending(facts: &Facts, now: Timestamp) -> Option<String> {
    match facts.urgency(now) {
        Urgency::None => None,
        Urgency::Weeks | Urgency::Week => Some(format!("its certificate \"{}\" expires soon", facts.subject)),
        Urgency::Expired => Some(format!("its certificate \"{}\" has expired", facts.subject)),
    }
}
