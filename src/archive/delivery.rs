//! Continuous export: everything since the last delivery, to a folder or a bucket. A delivery is made whole, with a manifest, and
//! noted as being on its way, before any of it reaches its target, and is noted as delivered once all of it is there: whenever it is
//! cut off, the next attempt brings the same bytes under the same number, or makes it anew where nothing of it was brought.
//!
//! What is due it asks the store; when is for others to know.

pub mod config;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::anchor::config::S3;
use super::anchor::s3::{Parcel, put_file};
use super::anchor::web::Web;
use super::anchor::{Refusal, s3};
use super::bundle;
use super::export::folder::{Folder, Written};
use super::export::tables::Sheet;
use super::export::{self, Plan, Tally, hex};
use crate::store::audit::Snapshot;
use crate::store::audit::extract::Table;
use crate::store::audit::part::{Due, Wanted};
use crate::store::custody::Custody;
use crate::store::custody::delivery::{Delivery, Outcome, Staged, Standing};
use crate::store::{self, beside, outbox};

pub use config::{Config, Target};

/// Every other file by its SHA-256, as `sha256sum -c` reads it.
const MANIFEST: &str = "manifest-sha256.txt";
/// What a manifest may have: a delivery of mails has a file a chat.
const LINE_BYTES_MAX: usize = 4_096;

/// Why nothing was delivered, for now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be made.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// The bucket does not take it.
    #[error("{0}")]
    Refused(String),
    /// What it would have had is gone.
    #[error("{0}: something was erased or masked while a delivery was made: it is made anew the next time")]
    Outdated(String),
    /// Somebody delivers to the same target.
    #[error("{0}: another process delivers there just now")]
    UnderWay(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Export(error.into())
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Nothing is due: nothing was written anywhere.
    Nothing,
    /// It is there.
    Delivered(Delivery),
    /// It never will be: why. What was in it goes with the next one.
    GivenUp(Delivery, String),
}

/// Who brings deliveries to a target.
#[derive(Debug, Clone)]
pub struct Courier<'c> {
    /// The archive.
    pub database: &'c Path,
    /// The target's name.
    pub name: &'c str,
    /// The target.
    pub target: &'c Target,
    /// As `deliveries.who` has it.
    pub who: &'c str,
    /// Ends it within a chat or a file, with an error.
    pub stop: &'c Arc<AtomicBool>,
}

/// What to do with a delivery that is on its way.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing of it was brought, and it is made anew.
    Make,
    /// It is there.
    Acknowledge,
    /// It is brought.
    Send,
    /// It cannot be brought any longer.
    GiveUp(String),
}

impl Courier<'_> {
    /// Brings one delivery, the one that is on its way where there is one. `progress` is told how many of how many chats are done.
    ///
    /// # Errors
    /// It could not be made, or the target does not take it now: it can be tried again.
    pub fn deliver(&self, now: &dyn Fn() -> i64, progress: &mut dyn FnMut(u64, u64)) -> Result<News, Error> {
        let _lock = self.lock()?;
        let custody = Custody::open(self.database)?.until(self.stop.clone());
        custody.check_can_deliver(self.name)?;
        custody.check_all_is_sealed()?;
        let standing = custody.standing(self.name)?;
        let next = match &standing.staged {
            Some(staged) => self.next(&custody, staged)?,
            None => Next::Make,
        };
        let news = match (next, &standing.staged) {
            (Next::Acknowledge, Some(staged)) => self.end(&custody, &staged.delivery, Outcome::Delivered, now),
            (Next::Send, Some(staged)) => self.send(&custody, staged, now),
            (Next::GiveUp(why), Some(staged)) => self.end(&custody, &staged.delivery, Outcome::GivenUp(why), now),
            _ => self.make(&custody, &standing, now, progress),
        };
        custody.close()?;
        news
    }

    /// When it was last looked whether anything is due; milliseconds since the epoch.
    ///
    /// # Errors
    /// As reading goes wrong.
    pub fn looked_at(&self) -> Result<Option<i64>, Error> {
        let custody = Custody::open(self.database)?;
        let standing = custody.standing(self.name)?;
        custody.close()?;
        // What is on its way is due.
        Ok(standing.looked_at.filter(|_| standing.staged.is_none()))
    }

    fn next(&self, custody: &Custody, staged: &Staged) -> Result<Next, Error> {
        let delivery = &staged.delivery;
        let is_meant = delivery.destination == self.destination(custody.archive_id(), delivery.number);
        let Some(_) = self.target.s3() else {
            // Where it was to be, whatever the configuration says now.
            let place = Path::new(&delivery.destination);
            return Ok(match is_whole(place, delivery) {
                true => Next::Acknowledge,
                false if place.symlink_metadata().is_ok() => {
                    Next::GiveUp(format!("something else is at {}", place.display()))
                }
                false => Next::Make,
            });
        };
        let is_whole = is_whole(&self.place(delivery.number), delivery);
        let flaw = match custody.is_outdated(delivery)? {
            _ if !is_meant => "another destination is configured by now",
            true => "something of it was erased or masked after it was made",
            false if !is_whole => "what was made of it is gone from the outbox beside the archive",
            false => return Ok(Next::Send),
        };
        Ok(if staged.is_sent { Next::GiveUp(flaw.into()) } else { Next::Make })
    }

    fn make(
        &self,
        custody: &Custody,
        standing: &Standing,
        now: &dyn Fn() -> i64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<News, Error> {
        let (number, started_at) = (standing.last_number + 1, now());
        custody.unmark_chats(self.name, number)?;
        self.sweep()?;
        // Before the snapshot: an erasure between the two counts as one that came later.
        let last_erasure = custody.last_erasure()?;
        let mut snapshot = Snapshot::open(self.database)?;
        let mut plan = self.target.plan();
        let due = snapshot.narrow(&self.wanted(standing, started_at, &plan), &plan.scope)?;
        if due.is_nothing() {
            self.discard(number)?;
            custody.mark_chats(self.name, number, snapshot)?;
            custody.looked(self.name, due.to, started_at)?;
            return Ok(News::Nothing);
        }
        let mut delivery = Delivery {
            target: self.name.into(),
            number,
            from_leaf: standing.delivered_to,
            to_leaf: due.to,
            started_at,
            who: self.who.into(),
            destination: self.destination(custody.archive_id(), number),
            format: plan.format.as_str().into(),
            chats: due.chats,
            additions: due.additions,
            removals: due.removals,
            last_erasure,
            ..Delivery::default()
        };
        let folder = match Folder::begin(&self.place(number), export::mode(self.database)?) {
            Err(export::Error::Exists(path)) => {
                let why = format!(
                    "{} is there already: was the archive restored, or is the folder another's?",
                    path.display()
                );
                return self.end(custody, &delivery, Outcome::GivenUp(why), now);
            }
            begun => begun?,
        };
        plan.delivery = Some(json!({
            "target": self.name, "number": number, "from_leaf": delivery.from_leaf, "to_leaf": due.to,
            "chats": due.chats, "additions": due.additions, "removals": due.removals,
        }));
        self.write(&snapshot, &folder, &plan, &due, &mut delivery, progress)?;
        custody.mark_chats(self.name, number, snapshot)?;
        if custody.is_outdated(&delivery)? {
            return Err(Error::Outdated(self.name.into()));
        }
        let looked_at = if self.target.is_full(&delivery) { 0 } else { started_at };
        custody.stage(&delivery, due.to, looked_at)?;
        folder.finish()?;
        match self.target.s3() {
            None => self.end(custody, &delivery, Outcome::Delivered, now),
            Some(_) => self.send(custody, &Staged { delivery, is_sent: false }, now),
        }
    }

    /// What a killed attempt has left, once nothing of it is due: it may have been erased.
    fn discard(&self, number: i64) -> Result<(), Error> {
        let place = self.place(number);
        if beside(&place, ".partial").symlink_metadata().is_err() {
            return Ok(());
        }
        match Folder::begin(&place, export::mode(self.database)?) {
            Err(export::Error::Foreign(_) | export::Error::Exists(_) | export::Error::UnderWay(_)) => {}
            begun => drop(begun?), // emptied, and removed
        }
        Ok(())
    }

    fn wanted(&self, standing: &Standing, as_of: i64, plan: &Plan) -> Wanted<'_> {
        let settle = i64::try_from(self.target.settle.as_millis()).unwrap_or(i64::MAX);
        Wanted {
            target: self.name,
            from: standing.looked_to,
            as_of,
            settled_at: as_of.saturating_sub(settle),
            with_errors: self.target.errors,
            with_states: plan.format.is_of_tables(),
            chats_max: self.target.chats_max as u64,
        }
    }

    /// All that is due, its manifest last.
    fn write(
        &self,
        snapshot: &Snapshot,
        folder: &Folder,
        plan: &Plan,
        due: &Due,
        delivery: &mut Delivery,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        let (tally, manifest) = match self.target.bundle {
            true => {
                let (bundled, manifest) = bundle::write(snapshot, folder, plan, self.stop, progress)?;
                (bundled.tally, manifest)
            }
            false => self.write_plain(snapshot, folder, plan, progress)?,
        };
        let written = tally.of(Table::Chats);
        if written != due.chats + due.additions {
            let has = due.chats + due.additions;
            return Err(export::Error::Count { table: Table::Chats.name(), written, has }.into());
        }
        (delivery.files, delivery.bytes) = folder.written();
        (delivery.rows, delivery.manifest) = (tally.rows(), Some(manifest.sha256));
        Ok(())
    }

    fn write_plain(
        &self,
        snapshot: &Snapshot,
        folder: &Folder,
        plan: &Plan,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Tally, Written), Error> {
        folder.keep_manifest(MANIFEST)?;
        let mut tally = export::write(snapshot, folder, "", plan, self.stop, progress)?;
        let mut removals = Sheet::begin(folder, "", Table::Removals, plan.format.encoding())?;
        for chat_id in snapshot.removed(&plan.scope)? {
            snapshot.each_of_chat::<export::Error>(Table::Removals, &chat_id, |row| {
                tally.add(Table::Removals);
                removals.row(&row)
            })?;
        }
        removals.close(folder)?;
        let manifest = folder.end_manifest()?.0;
        Ok((tally, manifest.expect("it was begun above")))
    }

    /// Brings all files to the bucket, the manifest last.
    fn send(&self, custody: &Custody, staged: &Staged, now: &dyn Fn() -> i64) -> Result<News, Error> {
        let delivery = &staged.delivery;
        let Some(bucket) = self.target.s3() else { return self.end(custody, delivery, Outcome::Delivered, now) };
        let web = Web::new(&bucket.ca).map_err(Error::Refused)?;
        let mut known = Some(s3::ask_for_lock(&bucket, &web).map_err(|why| refused(&bucket, &why))?);
        custody.sending(self.name)?;
        let place = self.place(delivery.number);
        let above = format!("{}/{}", custody.archive_id(), self.folder_name(delivery.number));
        let mut outcome = Outcome::Delivered;
        each_file(&place, delivery, &mut |name, sha256| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(export::Error::Stopped.into());
            }
            let (file, key) = (place.join(name), format!("{above}/{name}"));
            let may_be_there = staged.is_sent;
            let parcel = Parcel { file: &file, key: &key, sha256, at: delivery.started_at, may_be_there };
            match put_file(&bucket, &web, &parcel, &mut known) {
                Ok(()) => Ok(true),
                Err(Refusal::Now(why) | Refusal::ThisOne(why)) => Err(refused(&bucket, &why)),
                Err(Refusal::Forever(why)) => {
                    outcome = Outcome::GivenUp(why);
                    Ok(false)
                }
            }
        })?;
        self.end(custody, delivery, outcome, now)
    }

    /// It is noted, sealed; then nothing of it is kept here.
    fn end(
        &self,
        custody: &Custody,
        delivery: &Delivery,
        outcome: Outcome,
        now: &dyn Fn() -> i64,
    ) -> Result<News, Error> {
        custody.acknowledge(delivery, now(), &outcome)?;
        self.sweep()?;
        Ok(match outcome {
            Outcome::Delivered => News::Delivered(delivery.clone()),
            Outcome::GivenUp(why) => News::GivenUp(delivery.clone(), why),
        })
    }

    fn folder_name(&self, number: i64) -> String {
        format!("{}-{number:07}", self.name)
    }

    /// Where it is made.
    fn place(&self, number: i64) -> PathBuf {
        let above = if self.target.url.is_empty() { self.target.folder.clone() } else { self.outbox() };
        above.join(self.folder_name(number))
    }

    fn destination(&self, archive_id: &str, number: i64) -> String {
        match self.target.s3() {
            Some(s3) => format!("{}{archive_id}/{}", s3.place(), self.folder_name(number)),
            None => {
                let place = self.place(number);
                std::path::absolute(&place).unwrap_or(place).display().to_string()
            }
        }
    }

    /// Beside the archive, and as private.
    fn outbox(&self) -> PathBuf {
        outbox(self.database)
    }

    /// One at a time goes to a target.
    fn lock(&self) -> Result<File, Error> {
        let outbox = self.outbox();
        match DirBuilder::new().mode(0o700).create(&outbox) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&outbox, error)),
            _ => {}
        }
        let path = outbox.join(format!("{}.lock", self.name));
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| at(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::UnderWay(self.name.into())),
            Err(TryLockError::Error(error)) => Err(at(&path, error)),
        }
    }

    /// What earlier attempts have left in the outbox, which is this program's alone.
    fn sweep(&self) -> Result<(), Error> {
        let outbox = self.outbox();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_of_target = |name: &str| {
            let number = name.strip_prefix(self.name).and_then(|rest| rest.strip_prefix('-'));
            number.is_some_and(|number| is_number(number.strip_suffix(".partial").unwrap_or(number)))
        };
        for entry in std::fs::read_dir(&outbox).map_err(|error| at(&outbox, error))? {
            let entry = entry.map_err(|error| at(&outbox, error))?;
            if entry.file_name().to_str().is_some_and(is_of_target) {
                std::fs::remove_dir_all(entry.path()).map_err(|error| at(&entry.path(), error))?;
            }
        }
        Ok(())
    }
}

/// Whether a target would take a delivery now, as far as that shows without leaving one there: how it is, in words.
///
/// # Errors
/// What is wrong with it.
pub fn look(target: &Target) -> Result<String, String> {
    match target.s3() {
        Some(bucket) => s3::look(&bucket),
        None => super::anchor::look_at_folder(&target.folder).map(|()| "can be written to".into()),
    }
}

fn refused(bucket: &S3, why: &str) -> Error {
    Error::Refused(format!("{}: {why}", bucket.url))
}

/// Whether it is there as it was made: its manifest is.
fn is_whole(place: &Path, delivery: &Delivery) -> bool {
    let names = [MANIFEST, bundle::TAG_MANIFEST].map(|name| std::fs::read(place.join(name)));
    names.into_iter().flatten().any(|bytes| Some(hex(&Sha256::digest(bytes))) == delivery.manifest)
}

/// All files with their SHA-256, those first that others name, until one is enough.
fn each_file(
    place: &Path,
    delivery: &Delivery,
    take: &mut dyn FnMut(&str, &str) -> Result<bool, Error>,
) -> Result<(), Error> {
    let is_bundle = place.join(bundle::TAG_MANIFEST).exists();
    let manifests = [MANIFEST, bundle::TAG_MANIFEST];
    let manifests = if is_bundle { &manifests[..] } else { &manifests[..1] };
    for manifest in manifests {
        let path = place.join(manifest);
        let file = BufReader::new(File::open(&path).map_err(|error| at(&path, error))?);
        for line in file.lines() {
            let line = line.map_err(|error| at(&path, error))?;
            let Some((sha256, name)) = line.split_once("  ").filter(|_| line.len() < LINE_BYTES_MAX) else {
                return Err(at(&path, io::Error::other("a line of it is none of a manifest")));
            };
            if !take(name, sha256)? {
                return Ok(());
            }
        }
    }
    let last = manifests.last().copied().unwrap_or(MANIFEST);
    take(last, delivery.manifest.as_deref().unwrap_or_default()).map(drop)
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::Export(export::Error::File { path: path.to_owned(), error })
}
