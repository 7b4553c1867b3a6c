//! The texts of a column of a Parquet file, read a batch at a time by whoever has nothing better to do.
//!
//! Threads that encode read as well: whoever finds that few texts are left reads some more, others meanwhile work on what
//! there is. So reading takes no thread of its own, and a text is encoded while it is near. Row groups are read side by
//! side, and handed out in their order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use parquet::column::reader::{get_typed_column_reader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use crate::parts::{parts, Part, Place, Source};
use crate::split::Splitter;
use crate::text::{as_utf8, Text};

/// Text that is read at a time, if a page is not larger.
const BATCH_BYTES: usize = 4 << 20;
/// Documents that are asked for at a time: a batch ends with them, or with the row group.
const STEP_DOCUMENTS: usize = 64;
/// While a thread has less text than this before it, more is read.
const LOW_BYTES: usize = 1 << 20;
/// A row group whose turn has not come is read so far: what is encoded of it has to wait.
const AHEAD_BYTES: usize = 16 << 20;

/// A column of texts.
pub struct Column {
    file: SerializedFileReader<Offsets>,
    place: usize,
}

impl Column {
    /// The column of this name, or the field of a struct: the names of its parts, from the outermost on. A name with a
    /// dot in it is one part.
    ///
    /// # Errors
    /// There is no such file, it is no Parquet, it has no such column of texts or several, or the codec is not read.
    pub fn open<Name: AsRef<str>>(path: &Path, parts: &[Name]) -> Result<Column> {
        let refuse = |what: String| Err(ParquetError::General(what));
        // to open a pipe would wait for somebody to write to it
        if !std::fs::metadata(path)?.is_file() {
            return refuse("it is no file".to_owned());
        }
        let file = SerializedFileReader::new(Offsets(Arc::new(File::open(path)?)))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let name = parts.join("`, `");
        let columns = schema.columns();
        let names_of = |place: usize| columns[place].path().parts().iter().map(String::as_str);
        let is_it = |&place: &usize| names_of(place).eq(parts.iter().copied());
        let is_in_it = |&place: &usize| names_of(place).take(parts.len()).eq(parts.iter().copied());
        let places: Vec<usize> = (0..columns.len()).filter(is_in_it).collect();
        if places.len() > 1 && places.iter().all(is_it) {
            return refuse(format!("there are {} columns `{name}`", places.len()));
        }
        let Some(&place) = places.first() else { return refuse(format!("there is no column `{name}`")) };
        let column = &columns[place];
        if !places.iter().all(is_it) || column.max_rep_level() > 0 || !is_text(column) {
            return refuse(format!("the column `{name}` is not of texts"));
        }
        if file.metadata().row_groups().iter().any(|group| group.column(place).compression() == Compression::LZO) {
            return refuse(format!(
                "the column `{name}` is compressed with LZO, which is not read; write it with zstd"
            ));
        }
        Ok(Column { file, place })
    }

    /// Its texts in all.
    pub fn rows(&self) -> usize {
        self.file.metadata().file_metadata().num_rows() as usize
    }

    fn group(&self, number: usize) -> Result<Group> {
        let reader = self.file.get_row_group(number)?.get_column_reader(self.place)?;
        let schema = self.file.metadata().file_metadata().schema_descr();
        let always_there = schema.column(self.place).max_def_level();
        Ok(Group { reader: get_typed_column_reader(reader), always_there, parts: 0, bytes: 0 })
    }
}

/// Whether values are bytes, and those of a text as far as the file says: many programs write texts as plain bytes.
fn is_text(column: &ColumnDescriptor) -> bool {
    let plain =
        |kind| matches!(kind, ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON);
    let text = |kind: &LogicalType| matches!(kind, LogicalType::String | LogicalType::Enum | LogicalType::Json);
    column.physical_type() == Type::BYTE_ARRAY
        && plain(column.converted_type())
        && column.logical_type_ref().is_none_or(text)
}

/// A file that several readers share, each with a place of its own.
struct Offsets(Arc<File>);

impl Length for Offsets {
    fn len(&self) -> u64 {
        self.0.metadata().map_or(0, |there| there.len())
    }
}

impl ChunkReader for Offsets {
    type T = BufReader<Tail>;

    fn get_read(&self, start: u64) -> Result<BufReader<Tail>> {
        Ok(BufReader::new(Tail { file: self.0.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        Tail { file: self.0.clone(), at: start }.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF("the file ends within a page".to_owned()));
        }
        Ok(bytes.into())
    }
}

/// A file from some place on.
struct Tail {
    file: Arc<File>,
    at: u64,
}

impl Read for Tail {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A text of a column. It keeps the page that it lies in.
pub struct Document(ByteArray);

impl From<Vec<u8>> for Document {
    fn from(bytes: Vec<u8>) -> Document {
        Document(bytes.into())
    }
}

impl Text for Document {
    fn bytes(&self) -> &[u8] {
        self.0.data()
    }

    #[inline]
    fn stretch(&self, bytes: Range<usize>) -> Cow<'_, str> {
        as_utf8(&self.0.data()[bytes])
    }
}

/// A row group that is being read.
struct Group {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// Level of a text that is not null.
    always_there: i16,
    /// Parts that were handed out.
    parts: usize,
    /// Text that was read.
    bytes: usize,
}

impl Group {
    /// The next texts, a null as an empty one; none at the end.
    fn read(&mut self) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        let (mut texts, mut levels) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            levels.clear();
            let (read, _, _) = self.reader.read_records(STEP_DOCUMENTS, Some(&mut levels), None, &mut texts)?;
            if read == 0 {
                break;
            }
            bytes += texts.iter().map(ByteArray::len).sum::<usize>();
            if texts.len() == read {
                documents.extend(texts.drain(..).map(Document));
            } else {
                let mut there = texts.drain(..);
                let text_at = |level: &i16| (*level == self.always_there).then(|| there.next()).flatten();
                documents
                    .extend(levels.iter().map(text_at).map(|text| Document(text.unwrap_or_else(|| Vec::new().into()))));
            }
        }
        self.bytes += bytes;
        Ok(documents)
    }
}

/// A part of a batch that was read.
pub struct Stretch {
    /// The batch.
    pub batch: Arc<Vec<Document>>,
    /// Some of it.
    pub part: Part,
    /// Whether it is the batch's last.
    pub last: bool,
}

/// A column that is being read, by several threads.
pub struct Reading<'a> {
    column: &'a Column,
    splitter: &'a Splitter,
    threads: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ready: BTreeMap<Place, Stretch>,
    ready_bytes: usize,
    /// Row groups that nobody reads now, though they have begun.
    waiting: BTreeMap<usize, Group>,
    /// Row groups that somebody reads now.
    busy: Vec<usize>,
    /// The row group to begin with next.
    next: usize,
    failed: bool,
}

impl<'a> Reading<'a> {
    /// From the beginning, by so many threads.
    pub fn new(column: &'a Column, splitter: &'a Splitter, threads: usize) -> Reading<'a> {
        let state = State {
            ready: BTreeMap::new(),
            ready_bytes: 0,
            waiting: BTreeMap::new(),
            busy: Vec::new(),
            next: 0,
            failed: false,
        };
        Reading { column, splitter, threads, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row group to read from, which nobody else does; `None` if there is none now.
    fn claim(&self, state: &mut State) -> Option<Result<(usize, Group)>> {
        let first_busy = state.busy.iter().copied().min().unwrap_or(usize::MAX);
        let may_go =
            |(&number, group): (&usize, &Group)| (number < first_busy || group.bytes < AHEAD_BYTES).then_some(number);
        let first = state.waiting.iter().next().and_then(may_go);
        if let Some((number, group)) = first.and_then(|number| state.waiting.remove_entry(&number)) {
            state.busy.push(number);
            return Some(Ok((number, group)));
        }
        if state.next < self.column.file.num_row_groups() && state.busy.len() + state.waiting.len() < self.threads {
            let number = state.next;
            state.next += 1;
            state.busy.push(number);
            return Some(self.column.group(number).map(|group| (number, group)));
        }
        None
    }

    /// Reads a batch of a row group, and puts it where all find it.
    fn read(&self, number: usize, mut group: Group) -> Result<()> {
        let read = catch_unwind(AssertUnwindSafe(|| group.read()));
        let batch = read
            .unwrap_or_else(|_| Err(ParquetError::General("a page makes no sense".to_owned())))
            .map_err(|error| ParquetError::General(format!("its texts are damaged or encrypted ({error})")))?;
        let batch = Arc::new(batch);
        let mut cut = parts(&batch, self.splitter);
        let ended = batch.is_empty();
        if ended {
            cut.push(Part::Texts(0..0));
        }
        let bytes: usize = batch.iter().map(|text| text.bytes().len()).sum();
        let (first, count) = (group.parts, cut.len());
        let mut state = self.state();
        for (at, part) in cut.into_iter().enumerate() {
            let place = Place { group: number, part: first + at, last: ended };
            state.ready.insert(place, Stretch { batch: batch.clone(), part, last: at + 1 == count });
        }
        state.ready_bytes += bytes;
        group.parts += count;
        if !ended {
            state.waiting.insert(number, group);
        }
        state.busy.retain(|&other| other != number);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}

impl Source for Reading<'_> {
    type Part = Stretch;
    type Error = ParquetError;

    fn take(&self) -> Result<Option<(Place, Stretch)>> {
        let mut state = self.state();
        loop {
            if state.failed {
                return Ok(None);
            }
            if state.ready_bytes < self.threads * LOW_BYTES {
                if let Some(claimed) = self.claim(&mut state) {
                    drop(state);
                    let read = claimed.and_then(|(number, group)| self.read(number, group));
                    state = self.state();
                    if let Err(error) = read {
                        state.failed = true;
                        self.changed.notify_all();
                        return Err(error);
                    }
                    continue;
                }
            }
            if let Some((place, stretch)) = state.ready.pop_first() {
                state.ready_bytes -= stretch.bytes();
                return Ok(Some((place, stretch)));
            }
            if state.busy.is_empty() && state.waiting.is_empty() && state.next == self.column.file.num_row_groups() {
                return Ok(None);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Stretch {
    fn bytes(&self) -> usize {
        match &self.part {
            Part::Texts(range) => self.batch[range.clone()].iter().map(|text| text.bytes().len()).sum(),
            Part::Stretch(_, bytes) => bytes.len(),
        }
    }
}
