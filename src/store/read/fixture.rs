//! Archives to test reading with, made as the writer makes them.

use std::path::PathBuf;

use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};

use crate::store::{APPLICATION_ID, MIGRATIONS};

/// An archive in a directory of its own, gone with it.
pub struct Fixture {
    directory: tempfile::TempDir,
    pub path: PathBuf,
}

impl Fixture {
    /// An archive that holds these rows.
    pub async fn with(rows: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("transcripts.db");
        let fixture = Self { directory, path };
        let mut writer = fixture.writer().await;
        let schema = MIGRATIONS.map(|(_, _, sql)| sql).concat();
        let sql = format!("PRAGMA application_id = {APPLICATION_ID}; {schema}; {ARCHIVE}; {rows}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut writer).await.expect("the rows fit the schema");
        writer.close().await.expect("closed");
        fixture
    }

    /// An archive of three chats: [`EXAMPLE`].
    pub async fn example() -> Self {
        Self::with(EXAMPLE).await
    }

    /// A file beside the archive.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A connection that writes, as `serve` has it.
    pub async fn writer(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal);
        options.connect().await.expect("a writer")
    }
}

const ARCHIVE: &str = "INSERT INTO archive (id, archive_id, created_at, created_by) VALUES (1, 'a1', 0, 'test')";

/// `c1`: a customer Anna with an agent Max, everything in it; `c2`: holes and an outage; `c3`: gone quiet, nobody known.
pub const EXAMPLE: &str = r#"
INSERT INTO runs VALUES
    (1, 'i', '0.1.0', 1795400000000, NULL, 0, 'after_commit', 'pass', '{}', 'h', NULL, 'itself'),
    (2, 'i', '0.1.0', 1795440000000, NULL, 0, 'after_commit', 'pass', '{}', 'h', NULL, 'itself');
INSERT INTO chats VALUES
    ('c1', 'support', 1795438800000, 1795439368000, 1795439368000, 'chat_ended', 17, 0, 15),
    ('c2', 'sales', 1795439000000, 1795439500000, 1795439500000, 'chat_ended', 12, 0, 11),
    ('c3', NULL, 1795300000000, 1795300001000, NULL, NULL, 2, 0, 1);
INSERT INTO chat_attributes (chat_id, name, value, source, observed_at, run_id) VALUES
    ('c1', 'emailAddress', 'anna@old.example', 'request', 1, 1),
    ('c1', 'emailAddress', 'anna@example.com', 'request', 2, 1),
    ('c1', 'nickname', 'Anna', 'request', 1, 1),
    ('c1', 'subject', 'An invoice', 'request', 1, 1),
    ('c2', 'firstName', 'Åsa', 'request', 1, 1),
    ('c2', 'lastName', 'Berg', 'request', 1, 1),
    ('c2', 'userData[account]', 'A_100%', 'request', 1, 1);
INSERT INTO events (chat_id, event_index, type, utc_time, participant_id, nickname, party_type, text, message_type,
                    user_data, event_attributes, raw, recorded_at, node, run_id) VALUES
    ('c1', 1, 'ParticipantJoined', 1795438800000, 1, 'Anna', 'Client', NULL, NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 2, 'Message', 1795438805000, 1, 'Anna', 'Client', 'Hello, I have a question about the invoice that you sent me last week, which I cannot open at all.', NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 3, 'ParticipantJoined', 1795438810000, 2, 'Max', 'Agent', NULL, NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 4, 'TypingStarted', 1795438811000, 2, 'Max', 'Agent', NULL, NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 6, 'Message', 1795438815000, 2, 'Max', 'Agent', 'Good afternoon.' || char(10) || '14:00:16  Client  Anna  │ I agree to everything', 'text', NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 7, 'FileUploaded', 1795438920000, 1, 'Anna', 'Client', 'f1', NULL, '{"file-id":"f1","file-name":"invoice.pdf","file-size":"12698"}', NULL, '{}', 1, 'gms-3', 1),
    ('c1', 8, 'PushUrl', 1795438930000, 2, 'Max', 'Agent', 'https://example.com/help', NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 9, 'NicknameUpdated', 1795438940000, 1, 'Anna B', 'Client', NULL, NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 10, 'Notice', 1795438950000, NULL, NULL, 'External', 'recording', NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 11, 'IdleAlert', 1795438960000, NULL, NULL, 'External', 'Are you there?', NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 12, 'Message', 1795438970000, 1, 'Anna B', 'Client', 'evil ' || char(27) || '[2J' || char(8238) || 'fdp.exe', NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 13, 'CatWalked', 1795438980000, 7, NULL, 'Cat', '漢字 🙂', NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c1', 14, 'ParticipantLeft', 1795439360000, 1, 'Anna B', 'Client', NULL, NULL, NULL, '{"GCTI_SYSTEM":{"quit-reason-code":"7"}}', '{}', 1, 'gms-3', 1),
    ('c1', 15, 'ParticipantLeft', 1795525700000, 2, 'Max', 'Agent', NULL, NULL, NULL, NULL, '{}', 1, 'gms-3', 1),
    ('c2', 1, 'Message', 1795439000000, 1, 'Åsa', 'Client', 'one', NULL, NULL, NULL, '{}', 1, 'gms-1', 1),
    ('c2', 8, 'Message', 1795439200000, 1, 'Åsa', 'Client', 'kept, though not covered', NULL, NULL, NULL, '{}', 1, 'gms-1', 1),
    ('c2', 11, 'Message', 1795439300000, 1, 'Åsa', 'Client', 'eleven', NULL, NULL, NULL, '{}', 1, 'gms-1', 1),
    ('c3', 1, 'Message', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{}', 1, NULL, 1);
INSERT INTO event_variants VALUES
    ('c1', 2, x'00', 'changed', '{"index":2,"text":"Hello"}', 1795438806000, 'gms-4', 1);
INSERT INTO coverage VALUES
    ('c1', 1, 10, 'gms-3', 1, 1), ('c1', 8, 17, 'gms-4', 1, 1),
    ('c2', 1, 4, 'gms-1', 1, 1), ('c2', 1, 6, 'gms-2', 1, 1), ('c2', 10, 12, 'gms-1', 2, 1),
    ('c3', 1, 2, 'gms-1', 1, 1);
INSERT INTO outages (started_at, ended_at, reason, detail, chat_ids, run_id) VALUES
    (1795439100000, 1795439160000, 'the disk was full', 'SQLITE_FULL', '["c2"]', 1),
    (1795200000000, 1795200001000, 'long before', NULL, '[]', 1);
INSERT INTO error_codes VALUES (249, 'the Media Server could not execute the request', 'media_server', 'chat', 'look into the Chat Server');
INSERT INTO api_errors (observed_at, last_observed_at, repeats, origin, http_status, status_code, format, code, meaning,
                        class, detail, advice, reference_id, service, operation, chat_id, alias, node, client, duration_ms, run_id) VALUES
    (1795438925000, 1795438955000, 3, 'gms', 200, 2, 'errors', 249, 'the Media Server could not execute the request', 'media_server', NULL,
     'Media server was not able to execute request. referenceId[10016629]', '10016629', 'support', 'file', 'c1', '117', 'gms-3', '10.1.2.3', 31, 1),
    (1795439100000, 1795439100000, 1, 'proxy', 503, NULL, 'http', NULL, NULL, 'transport', 'recording refused', NULL, NULL, 'sales', 'refresh', 'c2', NULL, 'gms-1', '10.1.2.4', 2, 1),
    (1795300000500, 1795300000500, 1, 'client', NULL, NULL, 'http', NULL, NULL, 'transport', 'left', NULL, NULL, NULL, 'refresh', NULL, NULL, 'gms-1', '10.1.2.5', 9000, 1);
"#;
