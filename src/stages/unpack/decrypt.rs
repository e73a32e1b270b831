//! From sealed records to packed ones: authenticated, then decrypted in place.

use crate::error::{Malformation, Result};
use crate::format::record::{RECORD_HEADER_LEN, open_record};
use crate::stages::Stage;
use crate::stages::unpack::read::{RecordBytes, RecordInHand};

/// One decrypt worker; keys come with the records, there is no other state.
pub(crate) struct Decrypt<P> {
    purpose: std::marker::PhantomData<fn(P) -> P>,
}

impl<P> Decrypt<P> {
    /// A worker.
    pub(crate) fn new() -> Self {
        Self { purpose: std::marker::PhantomData }
    }
}

impl<P: Send> Stage for Decrypt<P> {
    type In = RecordInHand<P>;
    type Out = RecordInHand<P>;
    const NAME: &'static str = "decrypt";

    fn process(&mut self, record: RecordInHand<P>, emit: &mut dyn FnMut(RecordInHand<P>) -> Result<()>) -> Result<()> {
        let RecordInHand { job, bytes } = record;
        let bytes = bytes.and_then(|mut bytes| {
            let (head, ciphertext, tag) = bytes.buf.head_data_and_tail_mut(RECORD_HEADER_LEN);
            let head = head.first_chunk().expect("as long as was asked for");
            let header = open_record(&job.keys, &job.id, head, ciphertext, tag)?;
            if header.plain_len != job.place.plain_len {
                return Err(Malformation::Field { structure: "record table", field: "plain length of a record" });
            }
            Ok(RecordBytes { codec: header.codec, ..bytes })
        });
        emit(RecordInHand { job, bytes })
    }
}
