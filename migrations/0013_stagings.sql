-- What was made for a target of continuous exports, before any of it is brought: a row for each delivery, which is never changed. What is
-- noted as delivered (0010) is what stands here. `delivering.staged`, which says that it is on its way, is not sealed, and counts only where
-- it is the same: what somebody puts there is no delivery, and what a row of deliveries says was made.
CREATE TABLE stagings (
    id      INTEGER PRIMARY KEY,
    target  TEXT    NOT NULL,
    number  INTEGER NOT NULL,                             -- once more where it was made anew
    at      INTEGER NOT NULL,                             -- when it was made
    made    TEXT    NOT NULL                              -- JSON, as delivering.staged
);
CREATE INDEX stagings_by_number ON stagings (target, number);

-- Sealed as the others are (see 0005).
INSERT INTO sealed_forms VALUES (27, 'stagings', 'id', 'id,target,number,at,made');
