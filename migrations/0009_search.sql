-- Full text: messages, notices, attributes and what else was said, found by words (`gms-recorder search`). Filled in the background,
-- a few seconds behind; what is not in it yet is looked through row by row.
--
-- The index has no text, only words and where they stand (content=''): 60 bytes for each row with words, of 116 bytes of text, against
-- 190 with the texts in it. Of an event's text it knows nothing by itself: who removes or masks one must name the former text.
-- contentless_delete would spare that, and leave the words in the file until a merge by chance; with secure-delete they are gone at once.
-- It costs 7 to 10 us of CPU a row when it is filled, and 1 ms a row (80 us a word) to take one out.
--
-- search.rowid is 4 times the row's number (rowid of events and event_variants, id of chat_attributes), and 0 for an event, 1 for an
-- attribute, 2 for a variant. Which words a row has: of an event its text, the values in its user_data, and the nickname where somebody
-- joins or changes it; of an attribute its value; of a variant what the event would have. Small and large letters, and
-- letters with accents and without, are the same. Of scripts without spaces (Chinese, Japanese, Thai, …), of Korean and of
-- emoji each character is a word: U+001F stands around them, in queries too (MATCH '"' || '退' || char(31) || '款' || '"').
--
-- Older programs: a SQLite without FTS5, or one before 3.27, reads all other tables; to read this one takes 3.42. Not sealed: who
-- changes it can have something not found, and changes no row that is sealed.
CREATE VIRTUAL TABLE search USING fts5(
    text, content='', tokenize="unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc So'");
INSERT INTO search (search, rank) VALUES ('secure-delete', 1);
-- Merging is done in transactions of its own: within one that writes it would keep a recorder waiting for 100 ms.
INSERT INTO search (search, rank) VALUES ('automerge', 0);

-- One row: how far it is filled.
CREATE TABLE search_progress (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    rules          INTEGER NOT NULL,                      -- by which rules words were taken from rows; 0: it is being emptied
    events_to      INTEGER NOT NULL,                      -- rowid of the last event in it
    attributes_to  INTEGER NOT NULL,                      -- id of the last attribute
    variants_to    INTEGER NOT NULL,                      -- rowid of the last variant
    -- The last row of erasures that it followed. Another one: a release without search has removed or masked something, and it is made anew.
    erasures_to    INTEGER NOT NULL
);
INSERT INTO search_progress VALUES (1, 1, 0, 0, 0, 0);

-- Rows that were removed or masked and whose former words are still in it: by them nothing is found. They are taken out within
-- seconds, and before an erasure, a purge or a masking is told to be done to the last byte.
CREATE TABLE search_changes (
    id    INTEGER PRIMARY KEY,                            -- search.rowid
    text  TEXT    NOT NULL                                -- as it was put there
);
