//! From packed records to plain text.

use zstd::zstd_safe::DCtx;

use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::record::{Codec, unpack};
use crate::primitives::pool::BufferPool;
use crate::stages::Stage;
use crate::stages::unpack::read::{PlainRecord, RecordBytes, RecordInHand, RecordJob};

/// One decompress worker, with one context for its whole life.
pub(crate) struct Decompress<P> {
    context: DCtx<'static>,
    pool: BufferPool,
    purpose: std::marker::PhantomData<fn(P) -> P>,
}

impl<P> Decompress<P> {
    /// A worker; its output buffers come from `pool`.
    pub(crate) fn new(pool: BufferPool) -> Result<Self> {
        let out_of_memory = || Error::io(FileOp::Allocate, "a decompression context", std::io::ErrorKind::OutOfMemory);
        let context = DCtx::try_create().ok_or_else(out_of_memory)?;
        Ok(Self { context, pool, purpose: std::marker::PhantomData })
    }

    fn decompress(&mut self, packed: RecordBytes, plain_len: usize) -> Result<Result<RecordBytes, Malformation>> {
        if packed.codec == Codec::Store {
            return Ok(Ok(packed));
        }
        let mut buf = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        if plain_len > buf.capacity() {
            return Ok(Err(Malformation::Field { structure: "record table", field: "plain length of a record" }));
        }
        let unpacked = unpack(&mut self.context, packed.as_slice(), &mut buf.whole_mut()[..plain_len]);
        buf.set_len(plain_len);
        Ok(unpacked.map(|()| RecordBytes { buf, codec: Codec::Store }))
    }
}

impl<P: Send> Stage for Decompress<P> {
    type In = RecordInHand<P>;
    type Out = PlainRecord<P>;
    const NAME: &'static str = "decompress";

    fn process(&mut self, record: RecordInHand<P>, emit: &mut dyn FnMut(PlainRecord<P>) -> Result<()>) -> Result<()> {
        let RecordInHand { job, bytes } = record;
        let RecordJob { place, purpose, .. } = job;
        let bytes = match bytes {
            Ok(packed) => self.decompress(packed, place.plain_len as usize)?,
            Err(why) => Err(why),
        };
        emit(PlainRecord { place, bytes, purpose })
    }
}
