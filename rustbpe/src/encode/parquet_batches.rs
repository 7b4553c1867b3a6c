//! A column of a Parquet file → ids, batch by batch.

use std::fmt;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use twox_hash::XxHash3_64;

use super::encoder::{estimate_ids, AroundIds, Encoder, Width};
use super::worker::ChunkIds;
use super::EncodeError;
use crate::parallel::ordered::map_in_order;
use crate::parallel::threads_or_all;
use crate::parquet::{Document, DocumentChunk, ParallelReader, TextColumn};
use crate::text::Text;

/// Documents of a column, and their ids.
pub struct Batch<I> {
    /// Ids of all documents, in order.
    pub ids: Vec<I>,
    /// Start of each document among the ids, and the end of the last one.
    pub offsets: Vec<i64>,
    /// The documents.
    pub documents: Arc<Vec<Document>>,
}

/// Bytes of each document.
pub fn byte_lengths(documents: &[Document]) -> Vec<u32> {
    documents.iter().map(|document| document.bytes().len() as u32).collect()
}

/// XXH3 hash of each document's bytes.
pub fn content_hashes(documents: &[Document]) -> Vec<u64> {
    documents.iter().map(|document| XxHash3_64::oneshot(document.bytes())).collect()
}

/// Whether offsets are valid for this number of ids and documents.
pub fn offsets_fit(offsets: &[i64], ids: usize, documents: usize) -> bool {
    offsets.len() == documents + 1
        && offsets[0] == 0
        && offsets.is_sorted()
        && offsets.last().and_then(|&last| usize::try_from(last).ok()) == Some(ids)
}

/// A column could not be encoded.
#[derive(Debug)]
pub enum ColumnError {
    /// Reading failed.
    Parquet(ParquetError),
    /// Encoding failed.
    Encode(EncodeError),
    /// The receiver of the batches is gone.
    Stopped,
    /// The batches belong to the process that this one was forked from.
    Forked,
}

impl fmt::Display for ColumnError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnError::Parquet(ParquetError::General(text) | ParquetError::EOF(text)) => formatter.write_str(text),
            ColumnError::Parquet(ParquetError::External(error)) => error.fmt(formatter),
            ColumnError::Parquet(error) => error.fmt(formatter),
            ColumnError::Encode(error) => error.fmt(formatter),
            ColumnError::Stopped => formatter.write_str("stopped"),
            ColumnError::Forked => {
                formatter.write_str("these batches belong to the process that this one was forked from")
            }
        }
    }
}

impl std::error::Error for ColumnError {}

impl From<ParquetError> for ColumnError {
    fn from(error: ParquetError) -> ColumnError {
        ColumnError::Parquet(error)
    }
}

/// A chunk of documents, and its ids.
struct EncodedChunk<I> {
    ids: ChunkIds<I>,
    chunk: Option<DocumentChunk>,
}

impl<I: Default> Default for EncodedChunk<I> {
    fn default() -> EncodedChunk<I> {
        EncodedChunk { ids: ChunkIds::default(), chunk: None }
    }
}

impl Encoder {
    /// Encodes all documents of a column and passes the batches to `receive`, in order, until that returns false.
    /// `new_buffer` makes a vector for about this many ids.
    ///
    /// # Errors
    /// The file is damaged, the regex engine of a slow pattern failed, or `receive` returned false.
    pub fn encode_column<I: Width>(
        &self,
        column: &TextColumn,
        threads: usize,
        around: AroundIds,
        mut new_buffer: impl FnMut(usize) -> Vec<I> + Send,
        mut receive: impl FnMut(Batch<I>) -> bool + Send,
    ) -> Result<(), ColumnError> {
        let threads = threads_or_all(threads);
        let mut open: Option<Batch<I>> = None;
        map_in_order(
            &ParallelReader::new(column, &self.splitter, threads),
            threads,
            || self.take_worker::<I>(),
            |worker, chunk: DocumentChunk, out: &mut EncodedChunk<I>| {
                let encoded = worker.encode(self, &chunk.batch, &chunk.chunk, around, &mut out.ids);
                out.chunk = Some(chunk);
                encoded.map_err(ColumnError::Encode)
            },
            |out: &mut EncodedChunk<I>| {
                let Some(DocumentChunk { batch: documents, last, .. }) = out.chunk.take() else { return Ok(()) };
                let batch = open.get_or_insert_with(|| Batch {
                    ids: new_buffer(estimate_ids(&documents)),
                    offsets: vec![0],
                    documents,
                });
                let begin = batch.ids.len();
                batch.ids.extend_from_slice(out.ids.ids());
                batch.offsets.extend(out.ids.text_ends.iter().map(|&end| (begin + end) as i64));
                if !last {
                    return Ok(());
                }
                let wanted = open.take().is_none_or(|batch| batch.documents.is_empty() || receive(batch));
                wanted.then_some(()).ok_or(ColumnError::Stopped)
            },
            |worker| self.return_worker(worker),
        )
    }
}
