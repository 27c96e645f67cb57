//! Reads packs in the order of their leaves, and holds each row against the leaf that names it. Several threads look at
//! packs at the same time, each by a connection of its own; what they find is handed on in order.
//!
//! It knows one pack at a time: what another leaf says of the same row is for others to judge.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, scope};

use rusqlite::{Connection, Row, Rows, Statement};
use sha2::{Digest, Sha256};

use crate::store::seal::merkle::{HASH_BYTES, Hash};
use crate::store::seal::{Canonical, Form, Head, KeyValue, Refs, SALT_BYTES, salt};
use crate::store::{Error, ErrorKind};

/// Leaves that a thread is given at once: some milliseconds of work.
const LEAVES_AT_ONCE: usize = 2_000;
/// How often a thread is given some before what came of the first ones is taken.
const AHEAD: usize = 2;

/// Rows for [`Pack::of`], from a leaf on, in the order of their leaves.
pub(super) const SELECT: &str = "SELECT first_leaf, leaves, sealed_later_at, refs, seed, salts, hashes FROM seals
    WHERE first_leaf >= ? ORDER BY first_leaf";

/// A row of `seals`, as it is.
#[derive(Debug)]
pub(super) struct Pack {
    pub first_leaf: i64,
    pub leaves: i64,
    pub sealed_later_at: Option<i64>,
    pub refs: Vec<u8>,
    seed: Vec<u8>,
    salts: Option<Vec<u8>>,
    pub hashes: Vec<u8>,
}

/// A pack, and what came of looking at it.
#[derive(Debug)]
pub(super) struct Looked {
    /// The number of its own leaf, by its own word.
    pub first_leaf: i64,
    pub sealed_later_at: Option<i64>,
    /// What its own form forbids; then its rows are not looked at.
    pub flaw: Option<&'static str>,
    /// Whether its own leaf is of what it says.
    pub fits: bool,
    /// The rows that it names, in their order.
    pub rows: Vec<Named>,
    /// What is wrong with how it names them, behind those.
    pub misnamed: Option<&'static str>,
    /// 32 bytes a leaf.
    hashes: Vec<u8>,
}

/// A row that a leaf names.
#[derive(Debug)]
pub(super) struct Named {
    pub form: &'static Form,
    pub key: Vec<KeyValue>,
    pub held: Held,
}

/// What a leaf is to its row, which has a rowid (0 where the table has none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It is of the row as it is.
    Fits(i64),
    /// It is of the row as it was before the columns were set that are set later.
    Before(i64),
    /// It is of something else.
    Differs(i64),
    /// There is no such row.
    Gone,
    /// There is no such table.
    Dropped,
    /// Its salt was destroyed: it can be of anything. The row, where there is one.
    Destroyed(Option<i64>),
}

impl Looked {
    pub fn hashes(&self) -> &[Hash] {
        self.hashes.as_chunks::<HASH_BYTES>().0
    }
}

impl Pack {
    /// None where a value is not of its column's kind.
    pub fn of(row: &Row<'_>) -> Result<Option<Self>, Error> {
        let values = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?, row.get_ref(3)?);
        let (seed, salts, hashes) = (row.get_ref(4)?, row.get_ref(5)?, row.get_ref(6)?);
        let read = || {
            Some(Self {
                first_leaf: values.0.as_i64().ok()?,
                leaves: values.1.as_i64().ok()?,
                sealed_later_at: values.2.as_i64_or_null().ok()?,
                refs: values.3.as_blob().ok()?.to_vec(),
                seed: seed.as_blob().ok()?.to_vec(),
                salts: salts.as_blob_or_null().ok()?.map(<[u8]>::to_vec),
                hashes: hashes.as_blob().ok()?.to_vec(),
            })
        };
        Ok(read())
    }

    fn head(&self) -> Head<'_> {
        let Self { first_leaf, leaves, sealed_later_at, refs, seed, .. } = self;
        Head { first_leaf: *first_leaf, leaves: *leaves, sealed_later_at: *sealed_later_at, refs, seed }
    }

    /// What its own form forbids.
    pub fn flaw(&self) -> Option<&'static str> {
        let rows = usize::try_from(self.leaves).ok().and_then(|leaves| leaves.checked_sub(1));
        let salts = match self.seed.len() {
            SALT_BYTES if self.salts.is_none() => Some(()),
            HASH_BYTES => {
                let is_of_all = |salts: &[u8]| {
                    let (salts, check) = salts.split_at(salts.len().saturating_sub(HASH_BYTES));
                    Some(salts.len()) == rows.map(|rows| rows * SALT_BYTES) && Sha256::digest(salts)[..] == *check
                };
                self.salts.as_deref().filter(|salts| salts.is_empty() || is_of_all(salts)).map(drop)
            }
            _ => None,
        };
        match rows {
            Some(rows) if (rows + 1) * HASH_BYTES == self.hashes.len() && salts.is_some() => None,
            _ => Some("its numbers, hashes and salts do not go together: it was changed"),
        }
    }

    /// None where the salt was destroyed.
    pub fn salt(&self, place: u32) -> Option<[u8; SALT_BYTES]> {
        let Some(salts) = &self.salts else { return Some(salt(&self.seed, place)) };
        let at = (place as usize - 1) * SALT_BYTES;
        salts.get(at..)?.first_chunk().copied().filter(|salt| *salt != [0; SALT_BYTES])
    }
}

/// Looks at packs by one connection.
struct Look<'c> {
    connection: &'c Connection,
    /// Those whose tables are here.
    forms: &'c BTreeSet<u8>,
    /// A row of a table by its key.
    by_key: Vec<Option<Statement<'c>>>,
    bytes: Canonical,
}

impl<'c> Look<'c> {
    fn of(connection: &'c Connection, forms: &'c BTreeSet<u8>) -> Self {
        Self { connection, forms, by_key: Vec::new(), bytes: Canonical::default() }
    }

    fn pack(&mut self, pack: Pack) -> Result<Looked, Error> {
        let flaw = pack.flaw();
        let (mut rows, mut misnamed, mut fits) = (Vec::new(), None, true);
        if flaw.is_none() {
            let (hashes, _) = pack.hashes.as_chunks::<HASH_BYTES>();
            fits = pack.head().hash() == hashes[0];
            let mut refs = Refs::of(&pack.refs);
            for (place, hash) in (1..).zip(&hashes[1..]) {
                let Some((form, key)) = refs.next_row() else {
                    misnamed = Some("its refs cannot be read, or are of a newer release: use that one");
                    break;
                };
                let held = self.row(form, &key, pack.salt(place), hash)?;
                rows.push(Named { form, key, held });
            }
            if misnamed.is_none() && !refs.is_empty() {
                misnamed = Some("it names more rows than it has leaves");
            }
        }
        let Pack { first_leaf, sealed_later_at, hashes, .. } = pack;
        Ok(Looked { first_leaf, sealed_later_at, flaw, fits, rows, misnamed, hashes })
    }

    fn row(
        &mut self,
        form: &'static Form,
        key: &[KeyValue],
        salt: Option<[u8; SALT_BYTES]>,
        hash: &Hash,
    ) -> Result<Held, Error> {
        if !self.forms.contains(&form.number) {
            return Ok(if salt.is_some() { Held::Dropped } else { Held::Destroyed(None) });
        }
        if self.by_key.len() <= form.place() {
            self.by_key.resize_with(form.place() + 1, || None);
        }
        let place = &mut self.by_key[form.place()];
        let select = match place {
            Some(select) => select,
            None => place.insert(self.connection.prepare(form.select_by_key())?),
        };
        let mut rows = select.query(rusqlite::params_from_iter(key))?;
        let row = rows.next()?;
        let Some(salt) = salt else {
            return Ok(Held::Destroyed(row.map(|row| row.get(0)).transpose()?));
        };
        let Some(row) = row else { return Ok(Held::Gone) };
        self.bytes.row(&salt, form, row)?;
        let rowid = row.get(0)?;
        if self.bytes.hash() == *hash {
            return Ok(Held::Fits(rowid));
        }
        let later = form.set_later();
        if !later.is_empty() {
            self.bytes.row_without(&salt, form, row, later)?;
            if self.bytes.hash() == *hash {
                return Ok(Held::Before(rowid));
            }
        }
        Ok(Held::Differs(rowid))
    }
}

/// Some thousand leaves; None in a pack's place where one cannot be read.
type Packs<T> = Vec<Option<T>>;

/// A thread that looks at packs.
struct Reader {
    packs: SyncSender<Packs<Pack>>,
    looked: Receiver<Result<Packs<Looked>, Error>>,
}

impl Reader {
    /// Ends when nobody gives it packs any longer.
    fn start<'s>(scope: &'s Scope<'s, '_>, connection: Connection, forms: &'s BTreeSet<u8>) -> Self {
        let ((packs, given), (found, looked)) = (sync_channel::<Packs<Pack>>(AHEAD), sync_channel(AHEAD));
        scope.spawn(move || {
            let mut look = Look::of(&connection, forms);
            for packs in given {
                let some = packs.into_iter().map(|pack| pack.map(|pack| look.pack(pack)).transpose());
                if found.send(some.collect()).is_err() {
                    break; // the other side has ended with an error
                }
            }
        });
        Self { packs, looked }
    }

    fn give(&self, packs: Packs<Pack>) -> Result<(), Error> {
        self.packs.send(packs).map_err(|_| ended())
    }

    fn take(&self) -> Result<Packs<Looked>, Error> {
        self.looked.recv().map_err(|_| ended())?
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Other, "a thread that looks at packs has ended")
}

/// Hands on each pack, in order. By `others`, which see the same as `connection`, or where there are none by that alone.
pub(super) fn each(
    connection: &Connection,
    others: Vec<Connection>,
    forms: &BTreeSet<u8>,
    take: &mut dyn FnMut(Option<Looked>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut select = connection.prepare(SELECT)?;
    let mut rows = select.query([i64::MIN])?; // no number is too odd to be looked at
    if others.is_empty() {
        let mut look = Look::of(connection, forms);
        while let Some(row) = rows.next()? {
            let looked = Pack::of(row)?.map(|pack| look.pack(pack)).transpose()?;
            take(looked)?;
        }
        return Ok(());
    }
    scope(|scope| {
        let readers: Vec<Reader> =
            others.into_iter().map(|connection| Reader::start(scope, connection, forms)).collect();
        let mut at_work = VecDeque::with_capacity(readers.len() * AHEAD);
        for reader in readers.iter().cycle() {
            let some = some(&mut rows)?;
            let is_last = some.is_empty();
            if !is_last {
                reader.give(some)?;
                at_work.push_back(reader);
            }
            while is_last || at_work.len() == readers.len() * AHEAD {
                let Some(first) = at_work.pop_front() else { return Ok(()) };
                first.take()?.into_iter().try_for_each(&mut *take)?;
            }
        }
        Ok(())
    })
}

/// The next ones. None are left where it is empty.
fn some(rows: &mut Rows<'_>) -> Result<Packs<Pack>, Error> {
    let (mut packs, mut leaves) = (Vec::new(), 0);
    while leaves < LEAVES_AT_ONCE
        && let Some(row) = rows.next()?
    {
        let pack = Pack::of(row)?;
        leaves += pack.as_ref().map_or(1, |pack| pack.hashes.len() / HASH_BYTES);
        packs.push(pack);
    }
    Ok(packs)
}
