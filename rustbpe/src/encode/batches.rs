//! A column of a Parquet file → ids, a batch after the other.

use std::fmt;
use std::sync::Arc;

use parquet::errors::ParquetError;

use super::{likely_ids, EncodeError, Encoded, Encoder, Output};
use crate::column::{Column, Document, Reading, Stretch};
use crate::parts::{in_order, threads_or_all};

/// Some documents of a column, and their ids.
pub struct Batch<I> {
    /// Ids of all documents, in order.
    pub ids: Vec<I>,
    /// Where each document begins among them, and where the last one ends.
    pub offsets: Vec<i64>,
    /// The documents.
    pub documents: Arc<Vec<Document>>,
}

/// A column could not be encoded.
#[derive(Debug)]
pub enum ColumnError {
    /// It could not be read.
    Parquet(ParquetError),
    /// It could not be encoded.
    Encode(EncodeError),
    /// Nobody wants the rest.
    Stopped,
}

impl fmt::Display for ColumnError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnError::Parquet(ParquetError::General(text) | ParquetError::EOF(text)) => formatter.write_str(text),
            ColumnError::Parquet(ParquetError::External(error)) => error.fmt(formatter),
            ColumnError::Parquet(error) => error.fmt(formatter),
            ColumnError::Encode(error) => error.fmt(formatter),
            ColumnError::Stopped => formatter.write_str("stopped"),
        }
    }
}

impl std::error::Error for ColumnError {}

impl From<ParquetError> for ColumnError {
    fn from(error: ParquetError) -> ColumnError {
        ColumnError::Parquet(error)
    }
}

/// What a thread made of a part.
struct Done<I> {
    encoded: Encoded<I>,
    of: Option<Stretch>,
}

impl<I: Default> Default for Done<I> {
    fn default() -> Done<I> {
        Done { encoded: Encoded::default(), of: None }
    }
}

impl Encoder {
    /// Gives the ids of all documents of a column, batch by batch, in order, until `give` says that it wants no more.
    /// `before` and `after` are ids put around every document; `room` makes a vector for about so many ids.
    ///
    /// # Errors
    /// The file is damaged, the regex engine of a slow pattern gave up, or `give` wants no more.
    pub fn encode_column<I: Output>(
        &self,
        column: &Column,
        threads: usize,
        (before, after): (Option<u32>, Option<u32>),
        mut room: impl FnMut(usize) -> Vec<I> + Send,
        mut give: impl FnMut(Batch<I>) -> bool + Send,
    ) -> Result<(), ColumnError> {
        let threads = threads_or_all(threads);
        let mut open: Option<Batch<I>> = None;
        in_order(
            &Reading::new(column, &self.splitter, threads),
            threads,
            || self.worker::<I>(),
            |worker, stretch: Stretch, done: &mut Done<I>| {
                let encoded = worker.encode(self, &stretch.batch, &stretch.part, (before, after), &mut done.encoded);
                done.of = Some(stretch);
                encoded.map_err(ColumnError::Encode)
            },
            |done: &mut Done<I>| {
                let Some(Stretch { batch: documents, last, .. }) = done.of.take() else { return Ok(()) };
                let batch = open.get_or_insert_with(|| Batch {
                    ids: room(likely_ids(&documents)),
                    offsets: vec![0],
                    documents,
                });
                let begin = batch.ids.len();
                batch.ids.extend_from_slice(&done.encoded.ids[..done.encoded.count]);
                batch.offsets.extend(done.encoded.text_ends.iter().map(|&end| (begin + end) as i64));
                if !last {
                    return Ok(());
                }
                let wanted = open.take().is_none_or(|batch| batch.documents.is_empty() || give(batch));
                wanted.then_some(()).ok_or(ColumnError::Stopped)
            },
            |worker| self.retire(worker),
        )
    }
}
