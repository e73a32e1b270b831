//! From packed chunks to sealed records: encrypted in place, under the number that came with the chunk.

use crate::crypto::derive::SegmentKeys;
use crate::error::Result;
use crate::format::record::{RECORD_HEADER_LEN, RecordHeader, RecordKind, SegmentId, seal_record};
use crate::primitives::pool::PooledBuf;
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::compress::PackedChunk;
use crate::stages::{PartDone, Stage, Weighed, footprint};

/// A record that is ready to be written.
#[derive(Debug)]
pub(crate) struct SealedChunk {
    /// The record's number.
    pub(crate) number: ChunkSeq,
    /// Bytes before packing; 0 if there is no record, since nothing could be read.
    pub(crate) plain_len: u32,
    /// The ciphertext, with header and tag in the room around it.
    pub(crate) buf: PooledBuf,
    /// Whose bytes they are.
    pub(crate) parts: Vec<PartDone>,
}

impl SealedChunk {
    /// The record as it will stand in the file; `None` if there is none.
    pub(crate) fn framed(&self) -> Option<&[u8]> {
        (self.plain_len > 0).then(|| self.buf.framed(RECORD_HEADER_LEN, crate::crypto::aead::TAG_LEN))
    }
}

impl Weighed for SealedChunk {
    fn number(&self) -> Option<u64> {
        Some(self.number.0)
    }
    fn bytes(&self) -> u64 {
        self.framed().map_or(0, |framed| framed.len() as u64)
    }
    fn held(&self) -> u64 {
        footprint(&self.buf)
    }
}

/// The cipher of one worker; the key schedule is shared, there is no other state.
pub(crate) struct Encrypt<'k> {
    keys: &'k SegmentKeys,
    segment: SegmentId,
}

impl<'k> Encrypt<'k> {
    /// A worker that seals for this segment.
    pub(crate) fn new(keys: &'k SegmentKeys, segment: SegmentId) -> Self {
        Self { keys, segment }
    }
}

impl Stage for Encrypt<'_> {
    type In = PackedChunk;
    type Out = SealedChunk;
    const NAME: &'static str = "encrypt";

    fn process(&mut self, chunk: PackedChunk, emit: &mut dyn FnMut(SealedChunk) -> Result<()>) -> Result<()> {
        let PackedChunk { number, codec, plain_len, mut buf, parts } = chunk;
        if plain_len > 0 {
            let packed_len = u32::try_from(buf.len()).expect("chunks are at most 16 MiB");
            let (kind, segment) = (RecordKind::Data, self.segment);
            let header = RecordHeader { kind, codec, segment, number: number.0, plain_len, packed_len };
            let (head_room, data, tail_room) = buf.head_data_and_tail_mut(RECORD_HEADER_LEN);
            let (head, tag) = seal_record(self.keys, &header, data)?;
            head_room.copy_from_slice(&head);
            *tail_room = tag;
        }
        emit(SealedChunk { number, plain_len, buf, parts })
    }
}
