-- The account of every event seen, by the hour: what the metrics of a running `serve` say of now, for any past month.

-- A row for each run and hour (UTC) that it was there in, also where it saw nothing. Written lazily, every ten seconds and at the
-- stop, and never held; of a run that was killed the last ten seconds may be missing here, while its events are in `events`.
-- seen = new + duplicate + variant + finding + suppressed + refused + dropped + in_flight.
CREATE TABLE accounts (
    run_id           INTEGER NOT NULL,
    hour             INTEGER NOT NULL,                    -- its beginning
    at               INTEGER NOT NULL,                    -- when this was last written: the run was alive then
    seen             INTEGER NOT NULL,                    -- events in answers of nodes
    new              INTEGER NOT NULL,                    -- stored
    duplicate        INTEGER NOT NULL,                    -- stored before, or known to be
    variant          INTEGER NOT NULL,                    -- stored beside another content of the same key
    finding          INTEGER NOT NULL,                    -- kept as findings, having no key
    suppressed       INTEGER NOT NULL,                    -- delivered again under an erased key
    refused          INTEGER NOT NULL,                    -- not given to the client, because it could not be recorded
    dropped          INTEGER NOT NULL,                    -- given to the client and never to be written
    in_flight        INTEGER NOT NULL,                    -- more on the way to the file than at the hour's beginning; negative: fewer
    delivered_early  INTEGER NOT NULL,                    -- apart from the sum: given to the client before it was on disk
    PRIMARY KEY (run_id, hour)
);

-- Sealed as the others are (see 0005).
INSERT INTO sealed_forms VALUES
    (21, 'accounts', 'run_id,hour', 'run_id,hour,at,seen,new,duplicate,variant,finding,suppressed,refused,dropped,in_flight,delivered_early');
