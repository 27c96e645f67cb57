-- The spool: a second file that keeps what was seen while the archive takes nothing (when_unavailable = "spool").

-- Events of this outage that were kept in the spool, synced, before their clients had them, and came from there.
ALTER TABLE outages ADD COLUMN spooled INTEGER NOT NULL DEFAULT 0;

-- How much of each filling of a spool file is in this archive: written in the transaction that brings it here, so that
-- nothing is brought twice.
CREATE TABLE spools (
    spool_id    TEXT    PRIMARY KEY NOT NULL,             -- 32 hex digits, of the file's head
    drained_to  INTEGER NOT NULL,                         -- bytes of the file
    at          INTEGER NOT NULL,                         -- when that was
    run_id      INTEGER NOT NULL
);
