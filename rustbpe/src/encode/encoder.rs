//! The encoder: one vocabulary, its merge rules, and idle workers with their caches.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::derived_merges::map_tokens;
use super::merge::merge_piece;
use super::merge_rules::MergeRules;
use super::sink::{IdSink, StoppableSink};
use super::token_id::TokenId;
use super::worker::{ChunkIds, Worker};
use super::EncodeError;
use crate::buffer_pool::BufferPool;
use crate::hash::Map;
use crate::parallel::chunks::split_into_chunks;
use crate::parallel::interruptible::{run_interruptible, Monitor};
use crate::parallel::ordered::{map_in_order, SliceSource};
use crate::parallel::threads_or_all;
use crate::split::Splitter;
use crate::text::{total_bytes, Text};
use crate::vocab::Vocab;

/// Texts of at least this many bytes take so long that the caller may want to stop.
const INTERRUPTIBLE_BYTES: usize = 64 << 20;

/// Ids added before and after every text, for example BOS and EOS.
pub type AroundIds = (Option<u32>, Option<u32>);

/// Encodes with one vocabulary; threads may share it.
pub struct Encoder {
    pub(super) splitter: Splitter,
    pub(super) vocab: Vocab,
    pub(super) rules: MergeRules,
    merges: Option<Vec<(u32, u32)>>,
    /// Tokens that the rules do not make of their own bytes.
    pub(super) unreachable: Map<Box<[u8]>, u32>,
    /// Whether a piece that is such a token is encoded as that token.
    pub(super) match_whole_pieces: bool,
    narrow: Resources<u16>,
    wide: Resources<u32>,
}

/// Workers that wait for a text, with their caches. Boxed: a worker is large to move.
type IdleWorkers<I> = Mutex<Vec<Box<Worker<I>>>>;

/// What the encoder keeps for ids of one width.
#[doc(hidden)]
pub struct Resources<I: TokenId> {
    workers: IdleWorkers<I>,
    buffers: Arc<BufferPool<I>>,
}

impl<I: TokenId> Default for Resources<I> {
    fn default() -> Self {
        Resources { workers: Mutex::default(), buffers: Arc::default() }
    }
}

/// A width of ids that the encoder writes: u16 or u32.
pub trait Width: TokenId {
    #[doc(hidden)]
    fn resources(encoder: &Encoder) -> &Resources<Self>;
}

impl Width for u16 {
    fn resources(encoder: &Encoder) -> &Resources<u16> {
        &encoder.narrow
    }
}

impl Width for u32 {
    fn resources(encoder: &Encoder) -> &Resources<u32> {
        &encoder.wide
    }
}

/// An upper estimate of the number of ids of texts, including one before and one after each. Memory that is reserved but
/// not written costs nothing; growing a buffer takes longer than encoding.
pub fn estimate_ids<T: Text>(texts: &[T]) -> usize {
    texts.iter().map(|text| text.bytes().len() / 2 + 2).sum()
}

impl Encoder {
    /// An encoder for a vocabulary.
    ///
    /// With a list of `merges`, the first merge of the list goes first. Without, any two neighbors whose joined bytes are
    /// a token merge, the lowest id first, as in tiktoken. `match_whole_pieces`: a piece that is a token is encoded as
    /// that token, whatever the merges make of it.
    ///
    /// # Errors
    /// The merges do not fit the vocabulary.
    pub fn new(
        splitter: Splitter,
        vocab: Vocab,
        merges: Option<Vec<(u32, u32)>>,
        match_whole_pieces: bool,
    ) -> Result<Encoder, String> {
        let rules = match &merges {
            Some(merges) => MergeRules::from_list(&vocab, merges)?,
            None => MergeRules::from_ranks(&vocab),
        };
        let unreachable =
            map_tokens(&vocab, |bytes, id| (merge_piece(&rules, bytes) != [id]).then(|| (bytes.into(), id)));
        Ok(Encoder {
            splitter,
            vocab,
            rules,
            merges,
            unreachable: unreachable.into_iter().collect(),
            match_whole_pieces,
            narrow: Resources::default(),
            wide: Resources::default(),
        })
    }

    /// The vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// The splitter.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// The list of merges, if the encoder was made from one.
    pub fn merges(&self) -> Option<&[(u32, u32)]> {
        self.merges.as_deref()
    }

    /// Whether a piece that is a token is encoded as that token, whatever the merges make of it.
    pub fn matches_whole_pieces(&self) -> bool {
        self.match_whole_pieces
    }

    /// Whether every id of the vocabulary fits u16.
    pub fn is_narrow(&self) -> bool {
        self.vocab.len() <= 1 << 16
    }

    /// Whether every id, and those around texts, fit u16.
    pub fn fits_narrow(&self, (before, after): AroundIds) -> bool {
        let fits = |id: Option<u32>| id.is_none_or(|id| id <= u32::from(u16::MAX));
        self.is_narrow() && fits(before) && fits(after)
    }

    /// Buffers for ids, reused from batch to batch.
    pub fn buffers<I: Width>(&self) -> &Arc<BufferPool<I>> {
        &I::resources(self).buffers
    }

    /// Ids of a text.
    ///
    /// # Errors
    /// The regex engine of a slow pattern failed.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        if !self.is_narrow() {
            let mut ids: Vec<u32> = Vec::new();
            self.encode_batch(&[text], 1, (None, None), &mut ids)?;
            return Ok(ids);
        }
        let mut ids: Vec<u16> = Vec::new();
        self.encode_batch(&[text], 1, (None, None), &mut ids)?;
        Ok(ids.into_iter().map(u32::from).collect())
    }

    /// Like [`Encoder::encode`], but a large text is encoded on another thread; see
    /// [`Encoder::encode_batch_interruptible`].
    ///
    /// # Errors
    /// Encoding failed, `poll` failed, or the system refuses a thread.
    pub fn encode_interruptible<Error: From<EncodeError> + From<io::Error>>(
        &self,
        text: &str,
        poll: impl FnMut() -> Result<(), Error>,
    ) -> Result<Vec<u32>, Error> {
        if text.len() < INTERRUPTIBLE_BYTES {
            return Ok(self.encode(text)?);
        }
        let mut ids: Vec<u32> = Vec::new();
        self.encode_batch_interruptible(&[text], 1, (None, None), &mut ids, poll)?;
        Ok(ids)
    }

    /// Encodes texts and passes their ids to a sink, in order. Returns the start of each text among the ids, and the end
    /// of the last one. `threads`: 0 for all cores.
    ///
    /// # Errors
    /// The regex engine of a slow pattern failed, or the sink did.
    pub fn encode_batch<I: Width, T: Text, S: IdSink<I> + Send>(
        &self,
        texts: &[T],
        threads: usize,
        around: AroundIds,
        sink: &mut S,
    ) -> Result<Vec<i64>, EncodeError> {
        let mut offsets: Vec<i64> = Vec::with_capacity(texts.len() + 1);
        let mut end = 0;
        offsets.push(0);
        let chunks = split_into_chunks(texts, &self.splitter);
        map_in_order(
            &SliceSource::new(&chunks),
            threads_or_all(threads).min(chunks.len()),
            || self.take_worker::<I>(),
            |worker, chunk, out| worker.encode(self, texts, chunk, around, out),
            |out: &mut ChunkIds<I>| {
                sink.take(out.ids())?;
                offsets.extend(out.text_ends.iter().map(|&text_end| (end + text_end) as i64));
                end += out.ids().len();
                Ok(())
            },
            |worker| self.return_worker(worker),
        )?;
        Ok(offsets)
    }

    /// Like [`Encoder::encode_batch`], but large batches are encoded on other threads, while the calling thread calls
    /// `poll` every 50 ms; an error of `poll` stops the encoding.
    ///
    /// # Errors
    /// Encoding failed, `poll` failed, or the system refuses a thread.
    pub fn encode_batch_interruptible<I: Width, T: Text, S: IdSink<I> + Send, Error>(
        &self,
        texts: &[T],
        threads: usize,
        around: AroundIds,
        mut sink: S,
        mut poll: impl FnMut() -> Result<(), Error>,
    ) -> Result<Vec<i64>, Error>
    where
        Error: From<EncodeError> + From<io::Error>,
    {
        if total_bytes(texts) < INTERRUPTIBLE_BYTES {
            return Ok(self.encode_batch(texts, threads, around, &mut sink)?);
        }
        let encode =
            |monitor: Monitor<'_, ()>| self.encode_batch(texts, threads, around, &mut StoppableSink { sink, monitor });
        Ok(run_interruptible(encode, |_| poll())??)
    }

    /// Empties the caches; for benchmarks.
    pub fn clear_caches(&self) {
        self.narrow.workers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.wide.workers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn take_worker<I: Width>(&self) -> Box<Worker<I>> {
        let idle = I::resources(self).workers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Box::new(Worker::new(self)))
    }

    pub(super) fn return_worker<I: Width>(&self, worker: Box<Worker<I>>) {
        I::resources(self).workers.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }
}
