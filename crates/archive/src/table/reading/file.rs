//! One file: its directory, and its rows in batches.

use core::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;

use super::batch::{Batch, Values, moment};
use super::pages::Pages;
use super::source::Source;
use super::thrift::{self, Value};
use super::wanted::{Wanted, partition};
use super::{Fault, Kind, PARTITIONS, Tell, Told, columns};

/// Rows that are decoded at once.
const BATCH: usize = 1024;
/// Largest directory of a file.
const MAX_DIRECTORY: usize = 16 << 20;
/// Values in a directory: about two thousand for each row group.
const MAX_PARTS: usize = 1_000_000;
/// Elements of a schema; ours has sixty. The crate calls itself for each level of it.
const MAX_ELEMENTS: usize = 500;
/// Rows of a row group, at most.
const MAX_ROWS: i64 = 100_000_000;
/// Bytes of JSON in a batch: a dictionary lets a few bytes stand for many long values.
const MAX_JSON: usize = 64 << 20;
/// What is read of the end of a file at first.
const TAIL: usize = 64 << 10;

/// Reads what is wanted of a file.
pub(super) fn read(
    source: Arc<dyn Source>,
    name: &str,
    wanted: &Wanted,
    tell: &mut Tell<'_>,
) -> Result<ControlFlow<()>, Fault> {
    let directory = directory(&*source)?;
    let found = found(directory.file_metadata().schema_descr())?;
    for group in directory.row_groups() {
        if !may_hold(group, &found, wanted) {
            continue;
        }
        let rows = usize::try_from(group.num_rows().min(MAX_ROWS + 1));
        let rows = rows.map_err(|_| bad("a row group has less than no rows"))?;
        if rows as i64 > MAX_ROWS {
            return Err(bad(&format!("a row group has more than {MAX_ROWS} rows")));
        }
        if group.columns().len() != directory.file_metadata().schema_descr().num_columns() {
            return Err(bad("a row group lacks columns"));
        }
        let mut readers = Vec::new();
        for (at, found) in found.iter().enumerate() {
            readers.push(match found {
                Some(found) if wanted.has(at) => Reader::new(&source, group, found)?,
                _ => Reader::Same(None),
            });
        }
        readers.extend(PARTITIONS.map(|name_of| Reader::Same(partition_of(name, name_of))));
        readers.push(Reader::Same(Some(name.to_owned())));
        let mut left = rows;
        while left > 0 {
            let rows = left.min(BATCH);
            let columns = readers.iter_mut().map(|reader| reader.read(rows));
            let columns = columns.collect::<Result<_, _>>()?;
            if tell(Told::Rows(Batch { rows, columns })).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            left -= rows;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn bad(why: &str) -> Fault {
    Fault::Bad(why.to_owned())
}

/// A fault of the place stays one on its way through the `parquet` crate.
fn fault(error: ParquetError) -> Fault {
    match error {
        ParquetError::External(error) => match error.downcast::<Fault>() {
            Ok(fault) => *fault,
            Err(error) => Fault::Bad(error.to_string()),
        },
        error => Fault::Bad(error.to_string()),
    }
}

/// The directory, at the end of the file.
fn directory(source: &dyn Source) -> Result<ParquetMetaData, Fault> {
    let size = source.size();
    let tail = usize::try_from(size).unwrap_or(TAIL).min(TAIL);
    let tail = source.claimed(size - tail as u64, tail)?;
    let (before, end) = tail
        .split_last_chunk::<8>()
        .ok_or_else(|| bad("it is no Parquet file"))?;
    let [length @ .., _, _, _, _] = end;
    match end {
        [_, _, _, _, b'P', b'A', b'R', b'1'] => {}
        [_, _, _, _, b'P', b'A', b'R', b'E'] => return Err(bad("it is encrypted")),
        _ => return Err(bad("it is no Parquet file, or one that is cut")),
    }
    let length = length
        .iter()
        .rev()
        .fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
    if length > MAX_DIRECTORY {
        let why = format!("its directory has more than {MAX_DIRECTORY} bytes");
        return Err(Fault::Bad(why));
    }
    let bytes = match before.len().checked_sub(length) {
        Some(start) => tail.slice(start..before.len()),
        None => {
            let start = size.checked_sub(length as u64 + 8);
            source.claimed(start.ok_or_else(|| bad("it is cut"))?, length)?
        }
    };
    look_at(&bytes)?;
    ParquetMetaDataReader::decode_metadata(&bytes).map_err(fault)
}

/// That a directory can be given to the `parquet` crate: no list claims more elements than there are, and
/// the schema has few levels.
fn look_at(bytes: &Bytes) -> Result<(), Fault> {
    let (directory, _) = thrift::structure(bytes, MAX_PARTS)
        .map_err(|malformed| Fault::Bad(format!("its directory: {malformed}")))?;
    let schema = directory.list(2).unwrap_or_default();
    let children = |element: &Value| element.int(5).unwrap_or(0);
    let is_large = schema.len() > MAX_ELEMENTS
        || schema
            .iter()
            .any(|element| usize::try_from(children(element)).is_ok_and(|n| n > MAX_ELEMENTS));
    if is_large {
        return Err(bad("it has too many columns"));
    }
    Ok(())
}

/// Where a column of ours is in a file.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// With how many of its units are a millisecond.
    Time(usize, i64),
    Int32(usize),
    Int64(usize),
    Text(usize),
    Map(usize, usize),
}

/// Our columns in a file; `None` for those that it lacks. It may have further ones.
fn found(schema: &SchemaDescriptor) -> Result<Vec<Option<Found>>, Fault> {
    let found = columns::shape().map(|column| {
        let mut leaves = Vec::new();
        for (at, leaf) in schema.columns().iter().enumerate() {
            if leaf
                .path()
                .parts()
                .first()
                .is_some_and(|name| name == column.name)
            {
                leaves.push((at, leaf));
            }
        }
        let flat = |max| {
            move |leaf: &parquet::schema::types::ColumnDescPtr| {
                leaf.max_rep_level() == max && leaf.max_def_level() <= 1 + 2 * max
            }
        };
        let found = match (column.kind, &*leaves) {
            (_, []) => return Ok(None),
            (Kind::Time, [(at, leaf)]) if flat(0)(leaf) && leaf.physical_type() == Type::INT64 => {
                let unit = match (leaf.logical_type_ref(), leaf.converted_type()) {
                    (Some(LogicalType::Timestamp(time)), _) => match time.unit {
                        TimeUnit::MILLIS => Some(1),
                        TimeUnit::MICROS => Some(1000),
                        TimeUnit::NANOS => Some(1_000_000),
                    },
                    (None, ConvertedType::TIMESTAMP_MILLIS) => Some(1),
                    (None, ConvertedType::TIMESTAMP_MICROS) => Some(1000),
                    _ => None,
                };
                unit.map(|unit| Found::Time(*at, unit))
            }
            (Kind::Integer, [(at, leaf)]) if flat(0)(leaf) => match leaf.physical_type() {
                Type::INT32 => Some(Found::Int32(*at)),
                Type::INT64 => Some(Found::Int64(*at)),
                _ => None,
            },
            (Kind::Text, [(at, leaf)]) if flat(0)(leaf) => {
                (leaf.physical_type() == Type::BYTE_ARRAY).then_some(Found::Text(*at))
            }
            (Kind::Map, [(keys, key), (values, value)]) if flat(1)(key) && flat(1)(value) => {
                let is_text = |leaf: &parquet::schema::types::ColumnDescPtr| {
                    leaf.physical_type() == Type::BYTE_ARRAY
                };
                (is_text(key) && is_text(value)).then_some(Found::Map(*keys, *values))
            }
            _ => None,
        };
        let name = column.name;
        let other = || Fault::Bad(format!("its column {name} is of another type"));
        found.ok_or_else(other).map(Some)
    });
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    // The first is the time, which tables of exchanges always had.
    if !matches!(found.first(), Some(Some(_))) {
        return Err(bad("it is no table of exchanges: it has no column time"));
    }
    Ok(found)
}

/// Whether the times of a row group, as it says, may be those that are wanted.
fn may_hold(group: &RowGroupMetaData, found: &[Option<Found>], wanted: &Wanted) -> bool {
    let Some(Some(Found::Time(at, unit))) = found.first() else {
        return true;
    };
    let statistics = group
        .columns()
        .get(*at)
        .and_then(|column| column.statistics());
    let Some(Statistics::Int64(times)) = statistics else {
        return true;
    };
    let text = |time: Option<&i64>| time.and_then(|time| moment(time.div_euclid(*unit)));
    match (text(times.min_opt()), text(times.max_opt())) {
        (Some(low), Some(high)) => wanted.time.may_hold(&low, &high),
        _ => true,
    }
}

/// The value of a partition in the name of a file.
fn partition_of(name: &str, wanted: &str) -> Option<String> {
    let mut parts = name.split('/').filter_map(partition);
    parts.find(|(name, _)| *name == wanted)?.1
}

/// A column of a row group.
enum Reader {
    Time(Leaf<Int64Type>, i64),
    Int32(Leaf<Int32Type>),
    Int64(Leaf<Int64Type>),
    Text(Leaf<ByteArrayType>),
    Map(Box<[Leaf<ByteArrayType>; 2]>),
    Same(Option<String>),
}

/// A column of Parquet, and the level of its values.
struct Leaf<T: DataType> {
    reader: ColumnReaderImpl<T>,
    level: i16,
}

impl<T: DataType> Leaf<T> {
    fn new(source: &Arc<dyn Source>, group: &RowGroupMetaData, at: usize) -> Result<Self, Fault> {
        let column = group
            .columns()
            .get(at)
            .ok_or_else(|| bad("a row group lacks columns"))?;
        let description = column.column_descr_ptr();
        // The crate panics otherwise.
        if description.physical_type() != T::get_physical_type() {
            return Err(bad("a column is of another type than it says"));
        }
        let level = description.max_def_level();
        let pages = Box::new(Pages::new(source, column)?);
        Ok(Self {
            reader: get_typed_column_reader(get_column_reader(description, pages)),
            level,
        })
    }

    /// The next values of a column that has one for each row, or null.
    fn flat(&mut self, rows: usize) -> Result<Vec<Option<T::T>>, Fault> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let read = self
            .reader
            .read_records(rows, Some(&mut levels), None, &mut values);
        if read.map_err(fault)?.0 != rows {
            return Err(bad("a column has fewer rows than its row group"));
        }
        let mut values = values.into_iter();
        Ok(if self.level == 0 {
            values.map(Some).collect()
        } else {
            let present = levels.iter().map(|level| *level == self.level);
            present
                .map(|present| present.then(|| values.next()).flatten())
                .collect()
        })
    }
}

impl Reader {
    fn new(
        source: &Arc<dyn Source>,
        group: &RowGroupMetaData,
        found: &Found,
    ) -> Result<Self, Fault> {
        Ok(match *found {
            Found::Time(at, unit) => Self::Time(Leaf::new(source, group, at)?, unit),
            Found::Int32(at) => Self::Int32(Leaf::new(source, group, at)?),
            Found::Int64(at) => Self::Int64(Leaf::new(source, group, at)?),
            Found::Text(at) => Self::Text(Leaf::new(source, group, at)?),
            Found::Map(keys, values) => Self::Map(Box::new([
                Leaf::new(source, group, keys)?,
                Leaf::new(source, group, values)?,
            ])),
        })
    }

    fn read(&mut self, rows: usize) -> Result<Values, Fault> {
        Ok(match self {
            Self::Time(leaf, unit) => {
                let times = leaf.flat(rows)?.into_iter();
                Values::Times(times.map(|time| Some(time?.div_euclid(*unit))).collect())
            }
            Self::Int32(leaf) => {
                let numbers = leaf.flat(rows)?.into_iter();
                Values::Integers(numbers.map(|number| number.map(i64::from)).collect())
            }
            Self::Int64(leaf) => Values::Integers(leaf.flat(rows)?),
            Self::Text(leaf) => Values::Texts(leaf.flat(rows)?),
            Self::Map(leaves) => {
                let [keys, values] = &mut **leaves;
                Values::Maps(maps(keys, values, rows)?)
            }
            Self::Same(value) => Values::Same(value.clone()),
        })
    }
}

/// The next maps, as JSON objects.
fn maps(
    keys: &mut Leaf<ByteArrayType>,
    values: &mut Leaf<ByteArrayType>,
    rows: usize,
) -> Result<Vec<Option<String>>, Fault> {
    let keys = Repeated::read(keys, rows)?;
    let values = Repeated::read(values, rows)?;
    if keys.repeated != values.repeated {
        return Err(bad("a map has other names than values"));
    }
    let (mut names, mut texts) = (keys.values.iter(), values.values.iter());
    let mut maps: Vec<Option<String>> = Vec::with_capacity(rows);
    let mut json = 0;
    for ((repeated, key), value) in keys.repeated.iter().zip(&keys.present).zip(&values.present) {
        if *repeated == 0 {
            // One level below that of a map without pairs, there is no map.
            maps.push((*key + 1 >= keys.level).then(String::new));
        }
        let name = (*key == keys.level).then(|| names.next()).flatten();
        let text = (*value == values.level).then(|| texts.next()).flatten();
        if let (Some(name), Some(Some(map))) = (name, maps.last_mut()) {
            let before = map.len();
            map.push(if map.is_empty() { '{' } else { ',' });
            push_json(map, name);
            map.push(':');
            match text {
                Some(text) => push_json(map, text),
                None => map.push_str("null"),
            }
            json += map.len() - before;
            if json > MAX_JSON {
                return Err(bad("its maps are too large"));
            }
        }
    }
    for map in maps.iter_mut().flatten() {
        map.push_str(if map.is_empty() { "{}" } else { "}" });
    }
    if maps.len() != rows {
        return Err(bad("a map has fewer rows than its row group"));
    }
    Ok(maps)
}

/// The values of a column that has any number of them for each row.
struct Repeated {
    values: Vec<ByteArray>,
    present: Vec<i16>,
    repeated: Vec<i16>,
    level: i16,
}

impl Repeated {
    fn read(leaf: &mut Leaf<ByteArrayType>, rows: usize) -> Result<Self, Fault> {
        let (mut present, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let levels = (Some(&mut present), Some(&mut repeated));
        let read = leaf
            .reader
            .read_records(rows, levels.0, levels.1, &mut values);
        if read.map_err(fault)?.0 != rows {
            return Err(bad("a map has fewer rows than its row group"));
        }
        Ok(Self {
            values,
            present,
            repeated,
            level: leaf.level,
        })
    }
}

fn push_json(out: &mut String, text: &ByteArray) {
    let text = String::from_utf8_lossy(text.data());
    // Writing a text into memory cannot fail.
    out.push_str(&serde_json::to_string(&text).unwrap_or_default());
}
