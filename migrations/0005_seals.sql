-- Tamper evidence: every row that is recorded is a leaf of one hash tree, and the tree's root is signed every minute.
--
-- The tree is that of RFC 6962: SHA-256; a leaf's hash is over 0x00 and the leaf's bytes, a node's over 0x01 and the two
-- hashes below it. A leaf is written in the transaction of its row. `gms-recorder verify` holds all of it together.
--
-- THE BYTES OF A ROW (canonical, so that any program can rebuild them): the name of its table, then its columns in the
-- order that sealed_forms gives, each of them as
--     N                                NULL
--     I, 8 bytes                       an integer: two's complement, big-endian
--     R, 8 bytes                       a real: IEEE 754, big-endian (there are none, unless somebody put one there)
--     T, 4 bytes of length, UTF-8      a text; length big-endian, in bytes
--     B, 4 bytes of length, bytes      a blob
-- The name of the table is a text. What is hashed for the leaf is 0x00, 16 bytes of salt, the bytes of the row. The salt is
-- there so that a short text that was erased cannot be guessed from its hash.
--
-- A row that changes (a chat's, an error's that was repeated, …) is sealed anew with each change: its latest leaf must fit
-- the row; what earlier ones fitted is no longer known.

-- One row for all leaves of a transaction: a pack. Its first leaf is of the pack itself, unsalted: 0x00, then the canonical
-- bytes of ('seals', first_leaf, leaves, sealed_later_at, refs, and SHA-256 of the seed).
CREATE TABLE seals (
    first_leaf       INTEGER PRIMARY KEY,                 -- the number of the pack's own leaf; the tree's first one is 0
    leaves           INTEGER NOT NULL,                    -- with the pack's own
    sealed_later_at  INTEGER,                             -- NULL: with the rows. Else when: they were written before by a release that does not seal
    refs             BLOB    NOT NULL,                    -- which rows, see below
    seed             BLOB    NOT NULL,                    -- 16 bytes: the salt of leaf n (the first row's is 1) is the first 16 bytes of SHA-256(seed, n as 4 bytes big-endian).
                                                          -- 32 bytes: SHA-256 of a seed that was destroyed to erase rows; then the salts are in salts
    salts            BLOB,                                -- 16 bytes a row; zeros where it was destroyed
    hashes           BLOB    NOT NULL                     -- 32 bytes a leaf, the pack's own first
);
-- In refs, for each row: a byte, the form's number in sealed_forms (and 0x80, where the key's first column, a text, is the
-- same as in the last row before that has one, and is left out); then the columns of the key: an integer as LEB128 (7 bits a
-- byte, the low ones first); a text or a blob as its length so, and its bytes.

-- What is sealed of each table. A form never changes: where a table gets a column, it gets another form.
CREATE TABLE sealed_forms (
    form     INTEGER PRIMARY KEY,
    tbl      TEXT    NOT NULL,
    key      TEXT    NOT NULL,                            -- columns, separated by commas
    columns  TEXT    NOT NULL                             -- columns or expressions, separated by commas
);
INSERT INTO sealed_forms VALUES
    (1, 'events', 'chat_id,event_index', 'chat_id,event_index,type,utc_time,participant_id,nickname,party_type,text,message_type,user_data,event_attributes,raw,recorded_at,node,run_id'),
    (2, 'event_variants', 'chat_id,event_index,digest', 'chat_id,event_index,digest,kind,raw,recorded_at,node,run_id'),
    (3, 'chat_attributes', 'id', 'id,chat_id,name,value,source,observed_at,run_id'),
    (4, 'api_errors', 'id', 'id,observed_at,last_observed_at,repeats,origin,http_status,status_code,format,code,meaning,class,field,detail,advice,reference_id,service,operation,chat_id,alias,method,path,node,client,request_id,duration_ms,run_id,trace_id'),
    (5, 'coverage', 'chat_id,from_position,run_id,node', 'chat_id,from_position,next_position,node,run_id,at'),
    (6, 'findings', 'id', 'id,observed_at,last_observed_at,repeats,kind,chat_id,detail,raw,raw_length,digest,run_id'),
    (7, 'outages', 'id', 'id,started_at,ended_at,reason,detail,events,answers,delivered_early,refused,dropped,chat_ids,run_id,spooled'),
    -- last_seen_at follows every poll, and takes part only by the five minutes that it lies in.
    (8, 'chats', 'chat_id', 'chat_id,service,first_seen_at,last_seen_at / 300000,ended_at,ended_how,next_position,is_async,highest_index'),
    (9, 'runs', 'run_id', 'run_id,instance,version,started_at,stopped_at,clean,deliver,when_unavailable,settings,config_hash,ledger,sealing'),
    (10, 'archive', 'id', 'id,archive_id,created_at,created_by,quiet_after_ms,async_quiet_after_ms'),
    (11, 'spools', 'spool_id', 'spool_id,drained_to,at,run_id'),
    (12, 'keys', 'id', 'id,vkey,at,statement'),
    (13, 'maskings', 'id', 'id,what,chat_id,event_index,digest,row_id,field,rule,at_character,characters,recorded_at,run_id');

-- The tree as it stands: one row, which every transaction that seals goes on from.
CREATE TABLE tree (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    size   INTEGER NOT NULL,                              -- leaves
    roots  BLOB    NOT NULL                               -- of its perfect subtrees, 32 bytes each, the largest first
);
INSERT INTO tree VALUES (1, 0, x'');

-- The public keys that checkpoints are signed with, the present one last: C2SP signed-note verifier keys. A checkpoint over
-- the leaf of a key is signed with it or with a later one.
CREATE TABLE keys (
    id         INTEGER PRIMARY KEY,
    vkey       TEXT    NOT NULL,
    at         INTEGER NOT NULL,                          -- since when
    statement  TEXT                                       -- that it follows the one before, signed with both; NULL of the first
);

-- Signed checkpoints (C2SP tlog-checkpoint): origin, size, root, when, which one, signature. While nothing is recorded the
-- last one is replaced by a later one of the same size.
CREATE TABLE checkpoints (
    number  INTEGER PRIMARY KEY,                          -- 1, 2, 3, …
    size    INTEGER NOT NULL,                             -- the tree's leaves then
    at      INTEGER NOT NULL,
    note    TEXT    NOT NULL
);

-- Who sealed what a run wrote: itself; nobody (a release that does not seal); later (the next one that does), or pending,
-- while that is under way.
ALTER TABLE runs ADD COLUMN sealing TEXT NOT NULL DEFAULT 'nobody';

-- One row while the rows of pending runs are sealed: how far that is.
CREATE TABLE late_sealing (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    form   INTEGER NOT NULL,                              -- the table that is being looked through
    after  INTEGER NOT NULL                               -- the rowid up to which that is done
);
