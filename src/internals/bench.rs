//! What do benches need that users never do? Single stages, outside any pipeline.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::crypto::aead::TAG_LEN;
use crate::crypto::derive::{SegmentKeys, segment_keys};
use crate::crypto::key::MasterKey;
use crate::engine::config::Level;
use crate::error::{Error, FileOp, Result};
use crate::format::index::RecordPlace;
use crate::format::record::{Codec, RECORD_HEADER_LEN, RecordId, RecordKind, Salt, SegmentId, VaultId, sealed_len};
use crate::primitives::pool::{BufferPool, PooledBuf};
use crate::primitives::units::ChunkSeq;
use crate::primitives::{fs, mmap};
use crate::stages::Stage;
use crate::stages::pack::compress::{Compress, Effort, PackedChunk};
use crate::stages::pack::encrypt::{Encrypt, SealedChunk};
use crate::stages::pack::read::PlainChunk;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{PlainRecord, RecordBytes, RecordInHand, RecordJob};

/// A chunk that can be compressed.
#[derive(Debug)]
pub struct Plain(PlainChunk);

/// A chunk that can be sealed.
#[derive(Debug)]
pub struct Packed(PackedChunk);

impl Packed {
    /// Its length in bytes.
    #[must_use]
    pub fn packed_len(&self) -> usize {
        self.0.buf.len()
    }
}

/// A record that can be written.
#[derive(Debug)]
pub struct Sealed(SealedChunk);

/// A record as it comes out of a vault.
pub struct Stored(RecordInHand<()>);

/// A record that was opened and is still packed.
pub struct Opened(RecordInHand<()>);

/// A record's content.
pub struct Restored(PlainRecord<()>);

impl Restored {
    /// The content; `None` if it did not open or unpack.
    #[must_use]
    pub fn content(&self) -> Option<&[u8]> {
        self.0.bytes.as_ref().ok().map(RecordBytes::as_slice)
    }
}

/// One worker of each stage between reading and writing, both ways, with a key and a pool of buffers of their own.
pub struct Bench {
    keys: Arc<SegmentKeys>,
    segment: SegmentId,
    pool: BufferPool,
    compress: Compress,
    decrypt: Decrypt<()>,
    decompress: Decompress<()>,
}

impl Bench {
    /// Workers for chunks of up to `chunk_len` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] without random numbers or memory.
    pub fn new(level: Level, chunk_len: u32) -> Result<Self> {
        let effort = match level {
            Level::Store => Effort::Store,
            Level::Zstd(level) => Effort::Level(level),
            Level::Auto => Effort::BySample,
        };
        // Large enough for a record with its frame, which is what the way back reads into a buffer.
        let pool = BufferPool::new(sealed_len(chunk_len) as usize);
        let salt = Salt::generate()?;
        Ok(Self {
            keys: Arc::new(segment_keys(&MasterKey::generate()?, &salt.0, &VaultId::generate()?.0)),
            segment: salt.segment_id(),
            compress: Compress::new(effort, pool.clone())?,
            decrypt: Decrypt::new(),
            decompress: Decompress::new(pool.clone())?,
            pool,
        })
    }

    fn filled(&self, content: &[u8]) -> Result<PooledBuf> {
        let mut buf = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        buf.set_len(content.len());
        buf.as_mut_slice().copy_from_slice(content);
        Ok(buf)
    }

    /// A chunk of this content. Its number is always the same: what is sealed here goes nowhere.
    ///
    /// # Errors
    /// [`Error::Io`] without memory.
    ///
    /// # Panics
    /// If the content is longer than the chunks that the workers were made for.
    pub fn plain(&self, content: &[u8]) -> Result<Plain> {
        Ok(Plain(PlainChunk { number: ChunkSeq(0), buf: self.filled(content)?, parts: Vec::new() }))
    }

    /// The stage `compress`.
    ///
    /// # Errors
    /// The stage's.
    pub fn compress(&mut self, chunk: Plain) -> Result<Packed> {
        one(&mut self.compress, chunk.0).map(Packed)
    }

    /// The stage `encrypt`.
    ///
    /// # Errors
    /// The stage's.
    pub fn encrypt(&self, chunk: Packed) -> Result<Sealed> {
        one(&mut Encrypt::new(&self.keys, self.segment), chunk.0).map(Sealed)
    }

    /// The record as a read worker hands it on.
    ///
    /// # Errors
    /// [`Error::Io`] without memory.
    pub fn stored(&self, record: &Sealed) -> Result<Stored> {
        let SealedChunk { number, plain_len, .. } = record.0;
        let framed = record.0.framed().unwrap_or_default();
        let len = u32::try_from(framed.len()).expect("a record is at most 16 MiB and its frame");
        let mut buf = self.filled(&framed[RECORD_HEADER_LEN..framed.len() - TAG_LEN])?;
        buf.framed_mut(RECORD_HEADER_LEN, TAG_LEN).copy_from_slice(framed);
        let place = RecordPlace { number: number.0, offset: 0, sealed_len: len, plain_len };
        let id = RecordId { segment: self.segment, kind: RecordKind::Data, number: number.0 };
        let job = RecordJob { place, id, keys: Arc::clone(&self.keys), purpose: () };
        let bytes = RecordBytes { buf, codec: Codec::Store };
        Ok(Stored(RecordInHand { job, bytes: Ok(bytes) }))
    }

    /// The stage `decrypt`.
    ///
    /// # Errors
    /// The stage's.
    pub fn decrypt(&mut self, record: Stored) -> Result<Opened> {
        one(&mut self.decrypt, record.0).map(Opened)
    }

    /// The stage `decompress`.
    ///
    /// # Errors
    /// The stage's.
    pub fn decompress(&mut self, record: Opened) -> Result<Restored> {
        one(&mut self.decompress, record.0).map(Restored)
    }
}

/// The one item that a stage makes of one item.
fn one<S: Stage>(stage: &mut S, item: S::In) -> Result<S::Out> {
    let mut out = None;
    stage.process(item, &mut |made| {
        out = Some(made);
        Ok(())
    })?;
    Ok(out.expect("these stages emit one item for each that they take"))
}

/// Reads from `offset` on into `dst` as large files are read: the kernel copies out of mapped windows.
///
/// Says how many bytes came, and how many of them by way of a mapping.
///
/// # Errors
/// The system's.
pub fn copy_from_mapping(file: &File, dst: &mut [u8], offset: u64) -> io::Result<(usize, usize)> {
    mmap::copy_from_file(file, dst, offset, 0).map(|outcome| (outcome.len, outcome.mapped))
}

/// Reads from `offset` on into `dst` with `pread`; says how many bytes came.
///
/// # Errors
/// The system's.
pub fn read_at(file: &File, dst: &mut [u8], offset: u64) -> io::Result<usize> {
    fs::read_full_at(file, dst, offset)
}
