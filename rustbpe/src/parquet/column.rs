//! A column of texts, and its row groups.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use ::parquet::column::reader::{get_typed_column_reader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::schema::types::ColumnDescriptor;

use super::document::Document;
use super::shared_file::SharedFile;

/// Text of a batch, unless a page is larger.
const BATCH_BYTES: usize = 4 << 20;
/// Documents of one read; a batch ends with such a read, or with the row group.
const READ_DOCUMENTS: usize = 64;

/// A column of texts.
pub struct TextColumn {
    file: SerializedFileReader<SharedFile>,
    /// Index of the column among the leaf columns.
    index: usize,
}

impl TextColumn {
    /// Opens a column by its name or, for a field of a struct, by the names on its path, from the outermost. A name that
    /// contains a dot is one element of the path.
    ///
    /// # Errors
    /// The file does not exist or is not Parquet; there is no such column, or several; it does not hold texts; or its
    /// codec is not supported.
    pub fn open<Name: AsRef<str>>(file: &Path, path: &[Name]) -> Result<TextColumn> {
        let refuse = |reason: String| Err(ParquetError::General(reason));
        // opening a pipe would wait for a writer
        if !std::fs::metadata(file)?.is_file() {
            return refuse("it is no file".to_owned());
        }
        let file = SerializedFileReader::new(SharedFile(Arc::new(File::open(file)?)))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
        let name = path.join("`, `");
        let columns = schema.columns();
        let path_of = |index: usize| columns[index].path().parts().iter().map(String::as_str);
        let matches = |&index: &usize| path_of(index).eq(path.iter().copied());
        let is_inside = |&index: &usize| path_of(index).take(path.len()).eq(path.iter().copied());
        let found: Vec<usize> = (0..columns.len()).filter(is_inside).collect();
        if found.len() > 1 && found.iter().all(matches) {
            return refuse(format!("there are {} columns `{name}`", found.len()));
        }
        let Some(&index) = found.first() else { return refuse(format!("there is no column `{name}`")) };
        let column = &columns[index];
        if !found.iter().all(matches) || column.max_rep_level() > 0 || !is_text(column) {
            return refuse(format!("the column `{name}` is not of texts"));
        }
        if file.metadata().row_groups().iter().any(|group| group.column(index).compression() == Compression::LZO) {
            return refuse(format!(
                "the column `{name}` is compressed with LZO, which is not supported; write it with zstd"
            ));
        }
        Ok(TextColumn { file, index })
    }

    /// Number of texts.
    pub fn rows(&self) -> usize {
        self.file.metadata().file_metadata().num_rows() as usize
    }

    /// Number of row groups.
    pub(super) fn row_groups(&self) -> usize {
        self.file.num_row_groups()
    }

    /// A reader of a row group.
    pub(super) fn row_group(&self, number: usize) -> Result<RowGroupReader> {
        let reader = self.file.get_row_group(number)?.get_column_reader(self.index)?;
        let schema = self.file.metadata().file_metadata().schema_descr();
        let present_level = schema.column(self.index).max_def_level();
        Ok(RowGroupReader { reader: get_typed_column_reader(reader), present_level, chunks: 0, bytes: 0 })
    }
}

/// Whether values are byte arrays and, as far as the file declares it, texts; many programs write texts as plain bytes.
fn is_text(column: &ColumnDescriptor) -> bool {
    let plain =
        |kind| matches!(kind, ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON);
    let text = |kind: &LogicalType| matches!(kind, LogicalType::String | LogicalType::Enum | LogicalType::Json);
    column.physical_type() == Type::BYTE_ARRAY
        && plain(column.converted_type())
        && column.logical_type_ref().is_none_or(text)
}

/// Reads a row group, batch by batch.
pub struct RowGroupReader {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// Definition level of a text that is not null.
    present_level: i16,
    /// Chunks made from the batches so far.
    pub chunks: usize,
    /// Bytes of text read so far.
    pub bytes: usize,
}

impl RowGroupReader {
    /// The next batch of texts, nulls as empty texts; empty at the end.
    pub fn read_batch(&mut self) -> Result<Vec<Document>> {
        let mut documents = Vec::new();
        let (mut texts, mut levels) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            levels.clear();
            let (read, _, _) = self.reader.read_records(READ_DOCUMENTS, Some(&mut levels), None, &mut texts)?;
            if read == 0 {
                break;
            }
            bytes += texts.iter().map(ByteArray::len).sum::<usize>();
            if texts.len() == read {
                documents.extend(texts.drain(..).map(Document));
            } else {
                let mut present = texts.drain(..);
                let text_at = |level: &i16| (*level == self.present_level).then(|| present.next()).flatten();
                documents
                    .extend(levels.iter().map(text_at).map(|text| Document(text.unwrap_or_else(|| Vec::new().into()))));
            }
        }
        self.bytes += bytes;
        Ok(documents)
    }
}
