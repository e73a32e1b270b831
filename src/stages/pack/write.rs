//! From sealed records to places in the vault file.

use crate::error::Result;
use crate::format::index::RecordPlace;
use crate::stages::pack::encrypt::SealedChunk;
use crate::stages::{PartDone, Stage, Weighed};

/// Where records go: hands out places and writes there, from any thread.
pub(crate) trait RecordSink: Sync {
    /// Writes one framed record, which holds `plain_len` bytes of content, to a place of its own and says where that is.
    fn write_record(&self, framed: &[u8], plain_len: u32) -> Result<u64>;
}

/// A record that is in the file, or a chunk that made none.
#[derive(Debug)]
pub(crate) struct Written {
    /// Where it is.
    pub(crate) place: Option<RecordPlace>,
    /// Whose bytes it holds.
    pub(crate) parts: Vec<PartDone>,
}

impl Weighed for Written {
    fn bytes(&self) -> u64 {
        self.place.map_or(0, |place| u64::from(place.sealed_len))
    }
    fn held(&self) -> u64 {
        0
    }
}

/// One write worker.
pub(crate) struct Write<'s> {
    sink: &'s dyn RecordSink,
}

impl<'s> Write<'s> {
    /// A worker that writes to this sink.
    pub(crate) fn new(sink: &'s dyn RecordSink) -> Self {
        Self { sink }
    }
}

impl Stage for Write<'_> {
    type In = SealedChunk;
    type Out = Written;
    const NAME: &'static str = "write";

    fn process(&mut self, chunk: SealedChunk, emit: &mut dyn FnMut(Written) -> Result<()>) -> Result<()> {
        let place = match chunk.framed() {
            Some(framed) => Some(RecordPlace {
                number: chunk.number.0,
                offset: self.sink.write_record(framed, chunk.plain_len)?,
                sealed_len: u32::try_from(framed.len()).expect("a record is at most 16 MiB and its frame"),
                plain_len: chunk.plain_len,
            }),
            None => None,
        };
        let SealedChunk { buf, parts, .. } = chunk;
        // Back to the pool before the permit for it is given back.
        drop(buf);
        emit(Written { place, parts })
    }
}
