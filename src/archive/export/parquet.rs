//! A table as Parquet, for whoever reads columns: DuckDB, pyarrow, Spark. Every column has its type, and may be NULL. Rows are
//! held back until they make a row group, and no longer: memory does not grow with the table.

use std::io;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::Error;
use super::folder::Document;
use super::tables::{AT_UTC, names};
use crate::store::audit::extract::{Kind, Record, Table};
use crate::store::audit::proof::Field;

/// What a row group takes in memory, before it is packed: of events some 30,000.
const GROUP_BYTES_MAX: usize = 32 << 20;
/// As many rows as DuckDB makes a row group of.
const GROUP_ROWS_MAX: usize = 122_880;
/// Of a value, beside what it holds.
const VALUE_BYTES: usize = 40;
/// zstd's own default; 9 makes files a tenth smaller, and takes four times as long.
const ZSTD_LEVEL: i32 = 3;
/// Milliseconds of the years 1 to 9999: what Python, DuckDB and Spark take for times.
const CALENDAR: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// A file of it, while it is written.
#[derive(Debug)]
pub struct Parquet {
    table: Table,
    writer: SerializedFileWriter<Document>,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

/// What is held back of a column.
#[derive(Debug)]
struct Column {
    name: &'static str,
    kind: Kind,
    values: Values,
    /// Of each row: 1, or 0 where it is NULL.
    levels: Vec<i16>,
}

/// Of those rows where it is not NULL.
#[derive(Debug)]
enum Values {
    Flags(Vec<bool>),
    Numbers(Vec<i64>),
    Bytes(Vec<ByteArray>),
}

impl Parquet {
    /// Begins the file of a table.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(document: Document, table: Table) -> Result<Self, Error> {
        let columns: Vec<Column> = names(table).map(|name| Column::new(name, kind(table, name))).collect();
        let fields: String = columns.iter().map(Column::declaration).collect();
        let schema = parse_message_type(&format!("message {} {{ {fields} }}", table.name())).map_err(told)?;
        let writer = SerializedFileWriter::new(document, Arc::new(schema), Arc::new(properties(&columns)?));
        Ok(Self { table, writer: writer.map_err(told)?, columns, rows: 0, bytes: 0 })
    }

    /// One more row, and when it was.
    ///
    /// # Errors
    /// The file system's; a value is not of its column's kind.
    pub fn row(&mut self, at: Option<i64>, record: &Record) -> Result<(), Error> {
        let at = at.filter(|at| CALENDAR.contains(at)).map_or(Field::Null, Field::Integer);
        let fields = std::iter::once(&at).chain(record.iter().map(|(_, field)| field));
        for (column, field) in self.columns.iter_mut().zip(fields) {
            let (table, name) = (self.table.name(), column.name);
            self.bytes += column.take(field).map_err(|has| Error::Kind { table, column: name, has })?;
        }
        self.rows += 1;
        match self.bytes >= GROUP_BYTES_MAX || self.rows >= GROUP_ROWS_MAX {
            true => self.end_group().map_err(told),
            false => Ok(()),
        }
    }

    fn end_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        self.columns.iter_mut().try_for_each(|column| column.write(&mut group))?;
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Ends it: the file, all of it written.
    ///
    /// # Errors
    /// The file system's.
    pub fn end(mut self) -> Result<Document, Error> {
        if self.rows > 0 {
            self.end_group().map_err(told)?;
        }
        self.writer.into_inner().map_err(told)
    }
}

/// The first column is made for people out of another one.
fn kind(table: Table, name: &str) -> Kind {
    if name == AT_UTC { Kind::Time } else { table.kind(name) }
}

impl Column {
    fn new(name: &'static str, kind: Kind) -> Self {
        let values = match kind {
            Kind::Flag => Values::Flags(Vec::new()),
            Kind::Integer | Kind::Time => Values::Numbers(Vec::new()),
            Kind::Text | Kind::Json | Kind::Blob => Values::Bytes(Vec::new()),
        };
        Self { name, kind, values, levels: Vec::new() }
    }

    /// As Parquet's own language for schemas has it.
    fn declaration(&self) -> String {
        let kind = match self.kind {
            Kind::Flag => return format!("OPTIONAL BOOLEAN {}; ", self.name),
            Kind::Blob => return format!("OPTIONAL BYTE_ARRAY {}; ", self.name),
            Kind::Integer => ("INT64", "INTEGER(64,true)"),
            Kind::Time => ("INT64", "TIMESTAMP(MILLIS,true)"),
            // Not as JSON: DuckDB reads nothing of a file in which one text has a lone surrogate, which JSON may have.
            Kind::Text | Kind::Json => ("BYTE_ARRAY", "STRING"),
        };
        format!("OPTIONAL {} {} ({}); ", kind.0, self.name, kind.1)
    }

    /// How many bytes it takes; or what it is instead of what it should be.
    fn take(&mut self, field: &Field) -> Result<usize, &'static str> {
        self.levels.push(i16::from(*field != Field::Null));
        let bytes = match (&mut self.values, field, self.kind) {
            (_, Field::Null, _) => 0,
            (Values::Numbers(_), Field::Integer(number), Kind::Time) if !CALENDAR.contains(number) => {
                return Err("no time of any calendar");
            }
            (Values::Flags(flags), Field::Integer(number @ (0 | 1)), _) => {
                flags.push(*number == 1);
                1
            }
            (Values::Numbers(numbers), Field::Integer(number), _) => {
                numbers.push(*number);
                8
            }
            (Values::Bytes(values), Field::Text(text), Kind::Text | Kind::Json) => {
                values.push(text.as_bytes().to_vec().into());
                text.len() + VALUE_BYTES
            }
            (Values::Bytes(values), Field::Blob(bytes), Kind::Blob) => {
                values.push(bytes.clone().into());
                bytes.len() + VALUE_BYTES
            }
            (_, Field::Integer(_), _) => return Err("an integer"),
            (_, Field::Real(_), _) => return Err("a real"),
            (_, Field::Text(_), _) => return Err("a text"),
            (_, Field::Blob(_), _) => return Err("a blob"),
        };
        Ok(bytes + size_of::<i16>())
    }

    fn write(&mut self, group: &mut SerializedRowGroupWriter<'_, Document>) -> Result<(), ParquetError> {
        match &mut self.values {
            Values::Flags(flags) => write::<BoolType>(group, flags, &self.levels)?,
            Values::Numbers(numbers) => write::<Int64Type>(group, numbers, &self.levels)?,
            Values::Bytes(values) => write::<ByteArrayType>(group, values, &self.levels)?,
        }
        self.levels.clear();
        Ok(())
    }
}

fn write<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Document>,
    values: &mut Vec<T::T>,
    levels: &[i16],
) -> Result<(), ParquetError> {
    let wanted = || ParquetError::General("the schema has fewer columns than the table".into());
    let mut column = group.next_column()?.ok_or_else(wanted)?;
    column.typed::<T>().write_batch(values, Some(levels), None)?;
    values.clear();
    column.close()
}

/// The same rows give the same bytes: nothing of the clock or the machine is among them.
fn properties(columns: &[Column]) -> Result<WriterProperties, Error> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(told)?;
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("gms-recorder version ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    for column in columns {
        let path = || ColumnPath::from(column.name);
        properties = match column.kind {
            Kind::Integer | Kind::Time => properties
                .set_column_dictionary_enabled(path(), false)
                .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED),
            // Seldom twice the same.
            Kind::Json => properties.set_column_dictionary_enabled(path(), false),
            Kind::Text if matches!(column.name, "text" | "detail") => {
                properties.set_column_dictionary_enabled(path(), false)
            }
            Kind::Flag | Kind::Text | Kind::Blob => properties,
        };
    }
    Ok(properties.build())
}

fn told(error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other.to_string()),
        },
        other => io::Error::other(other.to_string()),
    };
    Error::Write(error)
}
