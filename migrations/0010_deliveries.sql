-- What was brought to other archives by and by (`[export.targets]`, `gms-recorder export --continue`): each target gets everything
-- since the last delivery.
--
-- WHAT "SINCE THE LAST" IS. Every row that is recorded or changed is a leaf of the tree, and a delivery is of the leaves from
-- from_leaf to to_leaf: the next one goes on at to_leaf, so that nothing falls between two. A chat goes whole, once, when it is over;
-- what is recorded of it afterwards goes with a later delivery as an addition, without what was delivered before. What was erased
-- before it was delivered is not delivered; what is erased afterwards is listed in the next delivery (removals).

-- A row for each delivery that the target has acknowledged: all of its files are there, synced, the manifest last. Or that was given
-- up; then its rows go with the next one.
CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY,
    target       TEXT    NOT NULL,                        -- as the configuration names it
    number       INTEGER NOT NULL,                        -- 1, 2, 3, … of each target
    from_leaf    INTEGER NOT NULL,
    to_leaf      INTEGER NOT NULL,                        -- exclusive; where it was given up the next one begins at from_leaf
    started_at   INTEGER NOT NULL,                        -- what is in it is as of then
    finished_at  INTEGER NOT NULL,
    who          TEXT    NOT NULL,                        -- the user of the operating system, or `serve`
    destination  TEXT    NOT NULL,                        -- a folder, or the beginning of all keys in a bucket
    format       TEXT    NOT NULL,
    chats        INTEGER NOT NULL,                        -- whole
    additions    INTEGER NOT NULL,                        -- chats of which something was added
    removals     INTEGER NOT NULL,
    rows         INTEGER NOT NULL,
    files        INTEGER NOT NULL,                        -- that the manifest names, itself not counted
    bytes        INTEGER NOT NULL,                        -- of these
    manifest     BLOB,                                    -- its SHA-256, 32 bytes: it has that of every other file; NULL: it was given up before
    outcome      TEXT    NOT NULL CHECK (outcome IN ('delivered', 'given_up')),
    detail       TEXT                                     -- why it was given up
);
CREATE UNIQUE INDEX deliveries_by_number ON deliveries (target, number);

-- Bookkeeping, not sealed: who changes it can have a chat delivered twice, or not at all, and no row that is sealed changes by it.
-- Which chats a target has: `number` is the delivery that a chat went whole in; NULL: it waits until it is over, or for its turn; 0: it was
-- over, and was not meant ([export.targets], service, party).
CREATE TABLE delivered_chats (
    chat_id  TEXT    NOT NULL,
    target   TEXT    NOT NULL,
    number   INTEGER,
    PRIMARY KEY (chat_id, target)
) WITHOUT ROWID;
CREATE INDEX delivered_chats_by_number ON delivered_chats (target, number);

-- The same of each target: up to which leaf was looked (further than the last delivery, where there was nothing for it), when, and what is
-- on its way.
CREATE TABLE delivering (
    target     TEXT    PRIMARY KEY NOT NULL,
    looked_to  INTEGER NOT NULL,
    looked_at  INTEGER NOT NULL,
    staged     TEXT,                                      -- JSON: the row of deliveries to be; NULL: nothing
    is_sent    INTEGER NOT NULL DEFAULT 0                 -- 1: some of it may be there already
) WITHOUT ROWID;

-- Sealed as the others are (see 0005).
INSERT INTO sealed_forms VALUES
    (20, 'deliveries', 'id', 'id,target,number,from_leaf,to_leaf,started_at,finished_at,who,destination,format,chats,additions,removals,rows,files,bytes,manifest,outcome,detail');
