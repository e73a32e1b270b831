//! From places in the vault file to sealed records in memory; and what travels on the way back.

use std::sync::Arc;

use crate::crypto::aead::TAG_LEN;
use crate::crypto::derive::SegmentKeys;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::index::RecordPlace;
use crate::format::record::{Codec, RECORD_HEADER_LEN, RecordId};
use crate::primitives::pool::{BufferPool, PooledBuf};
use crate::primitives::storage::Storage;
use crate::stages::{Stage, Weighed, footprint};

/// A record that is wanted, with what is to be done with its plain text.
///
/// `P` is the purpose: pieces of files to write, or nothing where a record is only checked.
pub(crate) struct RecordJob<P> {
    /// Where it is.
    pub(crate) place: RecordPlace,
    /// Which record it must be.
    pub(crate) id: RecordId,
    /// The keys of its segment.
    pub(crate) keys: Arc<SegmentKeys>,
    /// What it is wanted for.
    pub(crate) purpose: P,
}

/// A record on its way: its bytes, or why they are lost. A lost record does not end the run.
pub(crate) struct RecordInHand<P> {
    pub(crate) job: RecordJob<P>,
    pub(crate) bytes: Result<RecordBytes, Malformation>,
}

/// What a record holds.
pub(crate) struct RecordBytes {
    /// The packed or plain bytes, still encrypted until the record is open, with header and tag in the room around them:
    /// so what is stored as it is lies page-aligned, and can be written to a file without a copy.
    pub(crate) buf: PooledBuf,
    /// How they are packed, as soon as the record is open.
    pub(crate) codec: Codec,
}

impl RecordBytes {
    /// The packed or plain bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.buf.as_slice()
    }
}

impl<P> Weighed for RecordJob<P> {
    fn number(&self) -> Option<u64> {
        Some(self.place.number)
    }
    fn bytes(&self) -> u64 {
        u64::from(self.place.sealed_len)
    }
}

impl<P> Weighed for RecordInHand<P> {
    fn number(&self) -> Option<u64> {
        Some(self.job.place.number)
    }
    fn bytes(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.buf.len() as u64)
    }
    // Up to the decompressor, which takes a second buffer, the permit stays whole.
}

/// One read worker of the way back.
pub(crate) struct ReadRecord<'s, P> {
    storage: &'s dyn Storage,
    pool: BufferPool,
    purpose: std::marker::PhantomData<fn(P) -> P>,
}

impl<'s, P> ReadRecord<'s, P> {
    /// A worker; the buffers of `pool` hold any record with its frame.
    pub(crate) fn new(storage: &'s dyn Storage, pool: BufferPool) -> Self {
        Self { storage, pool, purpose: std::marker::PhantomData }
    }

    fn read(&self, place: &RecordPlace) -> Result<Result<RecordBytes, Malformation>> {
        let mut buf = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        let len = place.sealed_len as usize;
        let Some(packed_len) = len.checked_sub(RECORD_HEADER_LEN + TAG_LEN) else {
            return Ok(Err(Malformation::Truncated { structure: "record" }));
        };
        if packed_len > buf.capacity() {
            // A table that lists a record larger than its tree's head says: the pool was made for what the head says.
            return Ok(Err(Malformation::Field { structure: "record table", field: "length of a record" }));
        }
        buf.set_len(packed_len);
        let framed = buf.framed_mut(RECORD_HEADER_LEN, TAG_LEN);
        let mut done = 0;
        while done < len {
            match self.storage.read_at(&mut framed[done..], place.offset + done as u64) {
                Ok(0) => return Ok(Err(Malformation::Truncated { structure: "record" })),
                Ok(read) => done += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(Malformation::Unreadable { why: error.to_string() })),
            }
        }
        Ok(Ok(RecordBytes { buf, codec: Codec::Store }))
    }
}

impl<P: Send> Stage for ReadRecord<'_, P> {
    type In = RecordJob<P>;
    type Out = RecordInHand<P>;
    const NAME: &'static str = "read";

    fn process(&mut self, job: RecordJob<P>, emit: &mut dyn FnMut(RecordInHand<P>) -> Result<()>) -> Result<()> {
        let bytes = self.read(&job.place)?;
        emit(RecordInHand { job, bytes })
    }
}

/// A record's plain text, or why it is lost.
pub(crate) struct PlainRecord<P> {
    pub(crate) place: RecordPlace,
    pub(crate) bytes: Result<RecordBytes, Malformation>,
    pub(crate) purpose: P,
}

impl<P> Weighed for PlainRecord<P> {
    fn bytes(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.buf.len() as u64)
    }
    fn number(&self) -> Option<u64> {
        Some(self.place.number)
    }
    fn held(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| footprint(&bytes.buf))
    }
}
