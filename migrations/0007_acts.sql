-- What people do with the archive: who read it, what was erased, purged or masked later and why, and what is held.

-- Administrative acts, and reads of content through the program (`gms-recorder access`). What reads the file directly is not seen.
CREATE TABLE acts (
    id        INTEGER PRIMARY KEY,
    kind      TEXT    NOT NULL,                           -- read | erase | purge | mask | hold | unhold
    at        INTEGER NOT NULL,
    ended_at  INTEGER,                                    -- NULL: under way, or it was interrupted
    who       TEXT    NOT NULL,                           -- the user of the operating system, or `serve`
    via       TEXT,                                       -- who called sudo, where that was how
    host      TEXT    NOT NULL,
    case_ref  TEXT,                                       -- what it was for: a case, a ticket
    asked     TEXT    NOT NULL,                           -- JSON: the command and what it was given; customers of erasures only as digests
    reason    TEXT,
    found     INTEGER,                                    -- rows that were shown, erased, … by the end
    version   TEXT    NOT NULL
);
CREATE INDEX acts_by_time ON acts (at);

-- What may not be erased or purged, until it is released. Exactly one of: a chat; a customer (chats with that attribute);
-- a query for chat ids, which stands for future chats too.
CREATE TABLE holds (
    id           INTEGER PRIMARY KEY,
    act_id       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    reason       TEXT    NOT NULL,
    chat_id      TEXT,
    name         TEXT,                                    -- of the attribute: emailAddress, userData[…]; NULL: any
    value        TEXT,                                    -- of the attribute, compared as --who does, whole
    query        TEXT,
    released_at  INTEGER,                                 -- NULL: in force
    released_by  INTEGER                                  -- the act
);

-- What was removed: content, and the salts of its leaves, so that nothing can be guessed from their hashes. The leaves stay.
-- A row for each chat and act; and tombstones: events of the chat below `below` that are delivered again are suppressed.
CREATE TABLE erasures (
    id             INTEGER PRIMARY KEY,
    act_id         INTEGER NOT NULL,
    chat_id        TEXT,                                  -- NULL: errors and findings of no chat
    how            TEXT    NOT NULL CHECK (how IN ('erased', 'purged', 'masked')),
    at             INTEGER NOT NULL,
    below          INTEGER,                               -- NULL: nothing is suppressed (masked; no chat)
    service        TEXT,
    first_seen_at  INTEGER,
    last_seen_at   INTEGER,
    events         INTEGER NOT NULL,                      -- that were removed; of masked: that were changed
    rows           INTEGER NOT NULL,                      -- of all tables
    leaves         BLOB    NOT NULL                       -- whose salts were destroyed: rising numbers, each less the one before, as LEB128
);
CREATE INDEX erasures_by_chat ON erasures (chat_id) WHERE chat_id IS NOT NULL;
CREATE INDEX erasures_by_act ON erasures (act_id);

-- Erasures that a hold is in the way of: they wait, and are run afterwards (`erase --waiting`).
CREATE TABLE waiting_erasures (
    id       INTEGER PRIMARY KEY,
    act_id   INTEGER NOT NULL,                            -- the act that asked for it, with its reason
    chat_id  TEXT    NOT NULL,
    held_by  INTEGER NOT NULL,                            -- the hold, the first one where there are several
    at       INTEGER NOT NULL,
    done_by  INTEGER                                      -- the act that did it in the end; NULL: it waits
);
CREATE INDEX waiting_erasures_by_chat ON waiting_erasures (chat_id);

-- Text that was removed may still be in unused space of the file or its log: one row until it has been cleaned.
CREATE TABLE uncleaned (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    since  INTEGER NOT NULL
);

-- event_variants.digest is of the content and of this key, which goes with the chat: what is left of an erased variant in
-- seals.refs says nothing of it. Variants of earlier releases have a digest of the content alone.
CREATE TABLE variant_keys (
    chat_id  TEXT PRIMARY KEY NOT NULL,
    key      BLOB NOT NULL                                -- 16 random bytes
) WITHOUT ROWID;

-- maskings.run_id of a rule that was applied later (`mask`): the act, negative.

-- seals.salts, where it is not NULL: behind the salts stands the SHA-256 of them, 32 bytes, so that a bit that has flipped is seen in
-- those of leaves, too, that a later one of their row has made void. Empty where the salts of all rows of a pack were destroyed.

-- A line for each removal, newest first.
CREATE VIEW removals AS
SELECT
    e.chat_id                                                          AS chat_id,
    e.how                                                              AS how,
    CAST(strftime('%Y-%m-%dT%H:%M:%S', e.at / 1000, 'unixepoch')
         || printf('.%03dZ', e.at % 1000) AS TEXT)                     AS at,
    a.reason                                                           AS reason,
    a.who                                                              AS who,
    e.events                                                           AS events,
    e.rows                                                             AS rows,
    e.service                                                          AS service,
    CAST(strftime('%Y-%m-%dT%H:%M:%S', e.first_seen_at / 1000, 'unixepoch')
         || printf('.%03dZ', e.first_seen_at % 1000) AS TEXT)          AS first_seen,
    CAST(strftime('%Y-%m-%dT%H:%M:%S', e.last_seen_at / 1000, 'unixepoch')
         || printf('.%03dZ', e.last_seen_at % 1000) AS TEXT)           AS last_seen,
    e.act_id                                                           AS act_id
FROM erasures e LEFT JOIN acts a ON a.id = e.act_id
ORDER BY e.id DESC;

INSERT INTO sealed_forms VALUES
    (15, 'acts', 'id', 'id,kind,at,ended_at,who,via,host,case_ref,asked,reason,found,version'),
    (16, 'holds', 'id', 'id,act_id,at,reason,chat_id,name,value,query,released_at,released_by'),
    (17, 'erasures', 'id', 'id,act_id,chat_id,how,at,below,service,first_seen_at,last_seen_at,events,rows,leaves'),
    (18, 'waiting_erasures', 'id', 'id,act_id,chat_id,held_by,at,done_by');
