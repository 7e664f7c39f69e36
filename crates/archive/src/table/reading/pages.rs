//! The pages of a column, each looked at before the `parquet` crate decodes it.
//!
//! The crate's own reader allocates what a page's head claims, and inflates to the end whatever comes.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use super::Fault;
use super::source::Source;
use super::thrift::{self, Value};

/// Largest page, compressed or not. Writers make them of a megabyte.
const MAX_PAGE: usize = 64 << 20;
/// Largest dictionary. Writers make them of a megabyte; its values take more room than its bytes.
const MAX_DICTIONARY: usize = 16 << 20;
/// Values of a page, at most: nulls take no bytes.
const MAX_VALUES: u32 = 4 << 20;
/// Largest head of a page; those of statistics may have texts in them.
const MAX_HEAD: usize = 256 << 10;
/// Values in the head of a page; there are about twenty.
const MAX_PARTS: usize = 200;

/// Pages of a column in a row group.
pub(super) struct Pages {
    source: Arc<dyn Source>,
    at: u64,
    end: u64,
    /// Bytes that were read ahead, and where they begin.
    window: (u64, Bytes),
    codec: Codec,
    kind: Type,
    has_dictionary: bool,
    /// A head that was read, with where its page begins.
    next: Option<Head>,
}

#[derive(Clone, Copy)]
enum Codec {
    Gzip,
    None,
    Snappy,
}

/// The head of a page, checked.
struct Head {
    compressed: usize,
    uncompressed: usize,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Dictionary {
        values: u32,
        encoding: Encoding,
    },
    Data {
        values: u32,
        encoding: Encoding,
    },
    DataV2 {
        values: u32,
        encoding: Encoding,
        nulls: u32,
        rows: u32,
        definition: usize,
        repetition: usize,
        is_compressed: bool,
    },
    /// Nothing that is needed.
    Other,
}

pub(super) fn bad(why: impl Into<String>) -> ParquetError {
    ParquetError::External(Box::new(Fault::Bad(why.into())))
}

fn external(fault: Fault) -> ParquetError {
    ParquetError::External(Box::new(fault))
}

impl Pages {
    pub(super) fn new(
        source: &Arc<dyn Source>,
        column: &ColumnChunkMetaData,
    ) -> Result<Self, Fault> {
        let contradiction = || Fault::Bad("a column lies outside of the file".to_owned());
        if column.file_path().is_some() {
            return Err(Fault::Bad("its columns are in another file".to_owned()));
        }
        let codec = match column.compression() {
            Compression::UNCOMPRESSED => Codec::None,
            Compression::SNAPPY => Codec::Snappy,
            Compression::GZIP(_) => Codec::Gzip,
            other => {
                let codec = other.to_string();
                let codec = codec.split('(').next().unwrap_or_default();
                let why = format!("it is compressed with {codec}, which is not read here");
                return Err(Fault::Bad(why));
            }
        };
        let data = column.data_page_offset();
        // Some writers say 0 where there is none.
        let start = match column.dictionary_page_offset() {
            Some(dictionary) if dictionary > 0 => data.min(dictionary),
            _ => data,
        };
        let start = u64::try_from(start).map_err(|_| contradiction())?;
        let length = u64::try_from(column.compressed_size()).map_err(|_| contradiction())?;
        let end = start.checked_add(length);
        let end = end.filter(|end| *end <= source.size());
        Ok(Self {
            source: Arc::clone(source),
            at: start,
            end: end.ok_or_else(contradiction)?,
            window: (0, Bytes::new()),
            codec,
            kind: column.column_type(),
            has_dictionary: false,
            next: None,
        })
    }

    /// Bytes from where the next page or its head begins: as many as asked for, or all that are left.
    fn peek(&mut self, length: usize) -> Result<Bytes> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = length.min(left);
        let (begin, bytes) = &self.window;
        let start = self.at.checked_sub(*begin);
        let start = start.and_then(|start| usize::try_from(start).ok());
        if let Some(start) = start
            && let Some(end) = start.checked_add(length)
            && end <= bytes.len()
        {
            return Ok(bytes.slice(start..end));
        }
        let ahead = length.max(self.source.ahead()).min(left);
        let bytes = self.source.claimed(self.at, ahead).map_err(external)?;
        self.window = (self.at, bytes.clone());
        Ok(bytes.slice(..length))
    }

    fn skip(&mut self, length: usize) {
        self.at = self.end.min(self.at.saturating_add(length as u64));
    }

    /// Reads the head of the next page, unless it was read.
    fn read_head(&mut self) -> Result<Option<&Head>> {
        if self.next.is_none() {
            if self.at >= self.end {
                return Ok(None);
            }
            let mut length = 1 << 10;
            let (head, taken) = loop {
                let bytes = self.peek(length)?;
                match thrift::structure(&bytes, MAX_PARTS) {
                    Ok((head, rest)) => break (head, bytes.len() - rest.len()),
                    Err(thrift::Malformed::Cut) if bytes.len() == length && length < MAX_HEAD => {
                        length *= 4;
                    }
                    Err(fault) => return Err(bad(format!("the head of a page: {fault}"))),
                }
            };
            self.skip(taken);
            self.next = Some(self.checked(&head)?);
        }
        Ok(self.next.as_ref())
    }

    fn checked(&self, head: &Value) -> Result<Head> {
        let size = |id: i16| {
            let size = head.int(id).and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| bad("a page without a size"))
        };
        let form = self.form(head)?;
        let (uncompressed, compressed) = (size(2)?, size(3)?);
        let most = match form {
            Form::Dictionary { .. } => MAX_DICTIONARY,
            _ => MAX_PAGE,
        };
        if uncompressed.max(compressed) > most {
            return Err(bad(format!("a page has more than {most} bytes")));
        }
        if compressed as u64 > self.end - self.at {
            return Err(bad("a page goes beyond its column"));
        }
        if let Form::Dictionary { values, .. } = form {
            // What each takes at least.
            let width = if self.kind == Type::INT64 { 8 } else { 4 };
            if values as usize > uncompressed / width {
                return Err(bad("a dictionary has less than it says"));
            }
        }
        if let Form::DataV2 {
            definition,
            repetition,
            ..
        } = form
            && definition
                .checked_add(repetition)
                .is_none_or(|levels| levels > compressed.min(uncompressed))
        {
            return Err(bad("a page has less than it says"));
        }
        Ok(Head {
            compressed,
            uncompressed,
            form,
        })
    }

    fn form(&self, head: &Value) -> Result<Form> {
        let (id, encoding) = match head.int(1) {
            Some(0) => (5, 2),
            Some(2) => (7, 2),
            Some(3) => (8, 4),
            _ => return Ok(Form::Other),
        };
        let inner = head.field(id).ok_or_else(|| bad("a page without a head"))?;
        let number = |id: i16| {
            let number = inner.int(id).and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| bad("a page without a number that it needs"))
        };
        let values = number(1)?;
        if values > MAX_VALUES {
            return Err(bad(format!("a page has more than {MAX_VALUES} values")));
        }
        // Others would have to be bounded as well; what writers choose unless they are told is these.
        let encoding = match number(encoding)? {
            0 => Encoding::PLAIN,
            2 | 8 => Encoding::RLE_DICTIONARY,
            other => {
                return Err(bad(format!(
                    "it has values in encoding {other} of Parquet, which is not read here"
                )));
            }
        };
        let is_indexed = encoding == Encoding::RLE_DICTIONARY;
        Ok(match id {
            7 => Form::Dictionary {
                values,
                encoding: Encoding::PLAIN,
            },
            _ if is_indexed && !self.has_dictionary => {
                return Err(bad("a dictionary is missing"));
            }
            5 => {
                // Levels of the other kind went out of use in 2014.
                if number(3)? != 3 || number(4)? != 3 {
                    return Err(bad("it has levels in an encoding that is not read here"));
                }
                Form::Data { values, encoding }
            }
            _ => Form::DataV2 {
                values,
                encoding,
                nulls: number(2)?,
                rows: number(3)?,
                definition: number(5)? as usize,
                repetition: number(6)? as usize,
                is_compressed: inner.field(7) != Some(&Value::Bool(false)),
            },
        })
    }

    fn inflated(
        &self,
        bytes: Bytes,
        kept: usize,
        is_compressed: bool,
        size: usize,
    ) -> Result<Bytes> {
        let contradiction = || bad("a page has another size than it says");
        let whole = match self.codec {
            Codec::None => bytes,
            _ if !is_compressed => bytes,
            codec => {
                let (levels, packed) = bytes.split_at_checked(kept).ok_or_else(contradiction)?;
                let mut whole = Vec::with_capacity(size);
                whole.extend_from_slice(levels);
                let left = size.checked_sub(kept).ok_or_else(contradiction)?;
                match codec {
                    // A page without values may have nothing to unpack.
                    _ if left == 0 => {}
                    Codec::Snappy => {
                        if snap::raw::decompress_len(packed).ok() != Some(left) {
                            return Err(contradiction());
                        }
                        whole.resize(size, 0);
                        let room = whole.get_mut(kept..).unwrap_or_default();
                        let unpacked = snap::raw::Decoder::new().decompress(packed, room);
                        unpacked.map_err(|error| bad(error.to_string()))?;
                    }
                    Codec::Gzip | Codec::None => {
                        let unpacked = MultiGzDecoder::new(packed)
                            .take(left as u64 + 1)
                            .read_to_end(&mut whole);
                        unpacked.map_err(|error| bad(format!("a page of gzip: {error}")))?;
                    }
                }
                whole.into()
            }
        };
        if whole.len() != size {
            return Err(contradiction());
        }
        Ok(whole)
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        loop {
            self.read_head()?;
            let Some(head) = self.next.take() else {
                return Ok(None);
            };
            let buf = self.peek(head.compressed)?;
            if buf.len() != head.compressed {
                return Err(bad("it is cut"));
            }
            self.skip(head.compressed);
            let page = match head.form {
                Form::Other => continue,
                // The crate takes a page without values for the end.
                Form::Data { values: 0, .. } | Form::DataV2 { values: 0, .. } => continue,
                Form::Dictionary { values, encoding } => {
                    self.has_dictionary = true;
                    Page::DictionaryPage {
                        buf: self.inflated(buf, 0, true, head.uncompressed)?,
                        num_values: values,
                        encoding,
                        is_sorted: false,
                    }
                }
                Form::Data { values, encoding } => Page::DataPage {
                    buf: self.inflated(buf, 0, true, head.uncompressed)?,
                    num_values: values,
                    encoding,
                    def_level_encoding: Encoding::RLE,
                    rep_level_encoding: Encoding::RLE,
                    statistics: None,
                },
                Form::DataV2 {
                    values,
                    encoding,
                    nulls,
                    rows,
                    definition,
                    repetition,
                    is_compressed,
                } => Page::DataPageV2 {
                    buf: self.inflated(
                        buf,
                        definition + repetition,
                        is_compressed,
                        head.uncompressed,
                    )?,
                    num_values: values,
                    encoding,
                    num_nulls: nulls,
                    num_rows: rows,
                    def_levels_byte_len: u32::try_from(definition).unwrap_or(u32::MAX),
                    rep_levels_byte_len: u32::try_from(repetition).unwrap_or(u32::MAX),
                    is_compressed: false,
                    statistics: None,
                },
            };
            return Ok(Some(page));
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let form = self.read_head()?.map(|head| head.form);
        Ok(form.map(|form| match form {
            Form::DataV2 { values, rows, .. } => PageMetadata {
                num_rows: Some(rows as usize),
                num_levels: Some(values as usize),
                is_dict: false,
            },
            Form::Data { values, .. } => PageMetadata {
                num_rows: None,
                num_levels: Some(values as usize),
                is_dict: false,
            },
            Form::Dictionary { .. } | Form::Other => PageMetadata {
                num_rows: None,
                num_levels: None,
                is_dict: true,
            },
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.read_head()?;
        if let Some(head) = self.next.take() {
            self.skip(head.compressed);
        }
        Ok(())
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;
    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}
