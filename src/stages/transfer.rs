//! From one vault file into another: how does a sealed record get to its new place, as it is, sealed anew, or packed anew?
//!
//! Reading and decrypting are those of the way back ([`ReadRecord`], [`Decrypt`]); what lies between them and the new file is
//! here. A record that is lost travels on as such, and is written nowhere.
//!
//! [`ReadRecord`]: crate::stages::unpack::read::ReadRecord
//! [`Decrypt`]: crate::stages::unpack::decrypt::Decrypt

use std::path::Path;
use std::sync::Arc;

use crate::crypto::aead::TAG_LEN;
use crate::crypto::derive::SegmentKeys;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::index::RecordPlace;
use crate::format::record::{RECORD_HEADER_LEN, RecordHeader, RecordId, RecordKind, SegmentId, seal_record};
use crate::primitives::pool::{BufferPool, PooledBuf};
use crate::primitives::storage::Storage;
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::compress::{Compress, Effort, PackedChunk};
use crate::stages::pack::read::PlainChunk;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{ReadRecord, RecordBytes, RecordInHand, RecordJob};
use crate::stages::{Stage, Weighed};

/// Takes framed records whose places are known before; from any thread.
pub(crate) trait PlacedSink: Sync {
    /// Writes one of them.
    fn put(&self, framed: &[u8], offset: u64) -> Result<()>;
}

/// Where a record goes.
pub(crate) struct Destination {
    /// Where it begins in the new file.
    pub(crate) offset: u64,
    /// What it is sealed with there; `None`: it goes as it is.
    pub(crate) sealing: Option<Arc<Sealing>>,
}

/// A segment of the new file, for who seals records of it.
pub(crate) struct Sealing {
    /// Its id.
    pub(crate) segment: SegmentId,
    /// Its keys.
    pub(crate) keys: SegmentKeys,
}

/// Seals opened records anew, in place: the same number and the same packed bytes, in another segment under other keys.
pub(crate) struct SealAnew;

impl Stage for SealAnew {
    type In = RecordInHand<Destination>;
    type Out = RecordInHand<Destination>;
    const NAME: &'static str = "encrypt";

    fn process(&mut self, mut record: Self::In, emit: &mut dyn FnMut(Self::Out) -> Result<()>) -> Result<()> {
        if let (Ok(bytes), Some(sealing)) = (&mut record.bytes, &record.job.purpose.sealing) {
            let header = RecordHeader {
                kind: RecordKind::Data,
                codec: bytes.codec,
                segment: sealing.segment,
                number: record.job.place.number,
                plain_len: record.job.place.plain_len,
                packed_len: u32::try_from(bytes.buf.len()).expect("a record is at most 16 MiB and its frame"),
            };
            let (head_room, data, tail_room) = bytes.buf.head_data_and_tail_mut(RECORD_HEADER_LEN);
            let (head, tag) = seal_record(&sealing.keys, &header, data)?;
            head_room.copy_from_slice(&head);
            *tail_room = tag;
        }
        emit(record)
    }
}

/// Writes sealed records to their places.
pub(crate) struct PutRecord<'s> {
    sink: &'s dyn PlacedSink,
}

impl<'s> PutRecord<'s> {
    /// A worker that writes to this sink.
    pub(crate) fn new(sink: &'s dyn PlacedSink) -> Self {
        Self { sink }
    }
}

impl Stage for PutRecord<'_> {
    type In = RecordInHand<Destination>;
    type Out = RecordInHand<Destination>;
    const NAME: &'static str = "write";

    fn process(&mut self, record: Self::In, emit: &mut dyn FnMut(Self::Out) -> Result<()>) -> Result<()> {
        if let Ok(bytes) = &record.bytes {
            self.sink.put(bytes.buf.framed(RECORD_HEADER_LEN, TAG_LEN), record.job.purpose.offset)?;
        }
        emit(record)
    }
}

/// Pieces of old records that become one new record.
pub(crate) struct RepackJob {
    /// The new record's number.
    pub(crate) number: ChunkSeq,
    /// Its length before it is packed.
    pub(crate) plain_len: u32,
    /// The old records, each once.
    pub(crate) sources: Vec<RepackSource>,
}

/// An old record of which some pieces are wanted.
pub(crate) struct RepackSource {
    /// Where it is.
    pub(crate) place: RecordPlace,
    /// Which record it must be.
    pub(crate) id: RecordId,
    /// The keys of its segment.
    pub(crate) keys: Arc<SegmentKeys>,
    /// Where each piece begins in its plain text, and how long it is. In the new record they come one after another.
    pub(crate) pieces: Vec<(u32, u32)>,
}

impl Weighed for RepackJob {
    fn bytes(&self) -> u64 {
        self.sources.iter().map(|source| u64::from(source.place.sealed_len)).sum()
    }
    fn number(&self) -> Option<u64> {
        Some(self.number.0)
    }
}

/// Gathers pieces of records and packs them: reads, opens, unpacks, copies, packs. One worker does all of one new record, so
/// nothing has to wait for its neighbours; it holds [`Repack::BUFFERS`] buffers at a time.
pub(crate) struct Repack<'s> {
    vault: &'s Path,
    read: ReadRecord<'s, ()>,
    decrypt: Decrypt<()>,
    decompress: Decompress<()>,
    compress: Compress,
    pool: BufferPool,
}

impl<'s> Repack<'s> {
    /// Buffers that one worker holds: the new text, and an old record sealed and open; or the new text and its packed form.
    pub(crate) const BUFFERS: u64 = 3;

    /// A worker.
    ///
    /// - `vault`: what messages call `storage`.
    /// - `pool`: its buffers hold any old and any new record with its frame.
    pub(crate) fn new(storage: &'s dyn Storage, vault: &'s Path, level: i32, pool: BufferPool) -> Result<Self> {
        Ok(Self {
            vault,
            read: ReadRecord::new(storage, pool.clone()),
            decrypt: Decrypt::new(),
            decompress: Decompress::new(pool.clone())?,
            compress: Compress::new(Effort::Level(level), pool.clone())?,
            pool,
        })
    }

    /// The plain text of an old record.
    fn open(&mut self, source: &RepackSource) -> Result<RecordBytes> {
        let job = RecordJob { place: source.place, id: source.id, keys: Arc::clone(&source.keys), purpose: () };
        let mut plain = None;
        let Self { read, decrypt, decompress, .. } = self;
        read.process(job, &mut |sealed| {
            decrypt.process(sealed, &mut |packed| {
                decompress.process(packed, &mut |record| {
                    plain = Some(record.bytes);
                    Ok(())
                })
            })
        })?;
        let plain = plain.expect("one record in, one record out");
        plain.map_err(|why| lost_record(self.vault, &source.place, why))
    }

    /// The wanted pieces, one after another.
    fn gather(&mut self, job: &RepackJob) -> Result<PooledBuf> {
        let mut buf = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        buf.set_len(job.plain_len as usize);
        let mut filled = 0;
        for source in &job.sources {
            let plain = self.open(source)?;
            for &(at, len) in &source.pieces {
                let (at, len) = (at as usize, len as usize);
                let piece = plain.as_slice().get(at..at + len);
                let room = buf.as_mut_slice().get_mut(filled..filled + len);
                let (Some(piece), Some(room)) = (piece, room) else {
                    let why = Malformation::Field { structure: "entry", field: "extent" };
                    return Err(lost_record(self.vault, &source.place, why));
                };
                room.copy_from_slice(piece);
                filled += len;
            }
        }
        Ok(buf)
    }
}

/// The error for a record that does not open, where nothing can go on without it.
pub(crate) fn lost_record(vault: &Path, place: &RecordPlace, why: Malformation) -> Error {
    match why {
        // That the disk does not give it back is no damage to it.
        Malformation::Unreadable { why } => Error::io(FileOp::Read, vault, std::io::Error::other(why)),
        why => Error::malformed(vault, place.offset, why),
    }
}

impl Stage for Repack<'_> {
    type In = RepackJob;
    type Out = PackedChunk;
    const NAME: &'static str = "repack";

    fn process(&mut self, job: RepackJob, emit: &mut dyn FnMut(PackedChunk) -> Result<()>) -> Result<()> {
        let buf = self.gather(&job)?;
        self.compress.process(PlainChunk { number: job.number, buf, parts: Vec::new() }, emit)
    }
}
