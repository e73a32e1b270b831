//! From plain chunks to packed ones: one zstd frame a chunk, or the bytes as they are.

use zstd::zstd_safe::{CCtx, CParameter, ResetDirective};

use crate::error::{Error, FileOp, Result};
use crate::format::record::Codec;
use crate::primitives::pool::{BufferPool, PooledBuf};
use crate::primitives::units::ChunkSeq;
use crate::stages::pack::read::PlainChunk;
use crate::stages::{PartDone, Stage, Weighed, footprint};

/// How a chunk is to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Not at all.
    Store,
    /// At this zstd level.
    Level(i32),
    /// At a level that a sample of the chunk decides.
    BySample,
}

/// A chunk that is ready to be sealed.
#[derive(Debug)]
pub(crate) struct PackedChunk {
    /// The record's number.
    pub(crate) number: ChunkSeq,
    /// How it was packed.
    pub(crate) codec: Codec,
    /// Bytes before packing.
    pub(crate) plain_len: u32,
    /// The packed bytes; empty if nothing could be read.
    pub(crate) buf: PooledBuf,
    /// Whose bytes they are.
    pub(crate) parts: Vec<PartDone>,
}

impl Weighed for PackedChunk {
    fn number(&self) -> Option<u64> {
        Some(self.number.0)
    }
    fn bytes(&self) -> u64 {
        self.buf.len() as u64
    }
    fn held(&self) -> u64 {
        footprint(&self.buf)
    }
}

/// The compressor of one worker, with one context for its whole life.
pub(crate) struct Compress {
    context: CCtx<'static>,
    /// For pieces of a chunk, at level 1; made when the first one is looked at.
    probe: Option<CCtx<'static>>,
    /// The beginnings of the stretches of a chunk, in a table of which each place is taken by the last that belongs there.
    beginnings: Vec<u64>,
    effort: Effort,
    pool: BufferPool,
}

/// From this level on a sample decides whether a chunk is compressed at all.
const SAMPLED_FROM_LEVEL: i32 = 13;
/// A sample is this many pieces of this many bytes, spread evenly over the chunk.
const SAMPLE_PIECES: usize = 8;
const SAMPLE_PIECE_LEN: usize = 8 << 10;

/// Chunks of one file from this length on are looked at before they are compressed: in so many pieces of so many bytes, spread
/// evenly. A stretch of a quarter of a MiB of a chunk of 4 MiB holds one of them for certain.
const PROBED_FROM_LEN: usize = 512 << 10;
const PROBE_PIECES: usize = 32;
const PROBE_PIECE_LEN: usize = 4 << 10;

impl Compress {
    /// A worker; its output buffers come from `pool`.
    pub(crate) fn new(effort: Effort, pool: BufferPool) -> Result<Self> {
        let mut context = CCtx::try_create().ok_or_else(out_of_memory)?;
        if let Effort::Level(level) = effort {
            set(&mut context, CParameter::CompressionLevel(level))?;
        }
        // The record has its own length fields and its own authentication.
        set(&mut context, CParameter::ChecksumFlag(false))?;
        Ok(Self { context, probe: None, beginnings: Vec::new(), effort, pool })
    }

    /// - `one_file`: the chunk is of one file. What is of many is not like its pieces.
    fn compress(&mut self, plain: PooledBuf, one_file: bool) -> Result<(Codec, PooledBuf)> {
        let effort = self.effort;
        match effort {
            Effort::Store => return Ok((Codec::Store, plain)),
            // From here on zstd has no early way out of its own: noise would take a hundred times what it is worth.
            Effort::Level(level) if level >= SAMPLED_FROM_LEVEL => match self.level_for(plain.as_slice())? {
                Some(_) => set(&mut self.context, CParameter::CompressionLevel(level))?,
                None => return Ok((Codec::Store, plain)),
            },
            Effort::Level(_) if one_file && self.is_noise(plain.as_slice())? => return Ok((Codec::Store, plain)),
            Effort::Level(_) => {}
            Effort::BySample => match self.level_for(plain.as_slice())? {
                Some(level) => set(&mut self.context, CParameter::CompressionLevel(level))?,
                None => return Ok((Codec::Store, plain)),
            },
        }
        let mut packed = self.pool.take().map_err(|error| Error::io(FileOp::Allocate, "a buffer", error))?;
        // No room for more than would be a gain: what does not fit is stored.
        let room = plain.len() - plain.len() / 256;
        let written = compress_into(&mut self.context, plain.as_slice(), &mut packed.whole_mut()[..room])?;
        Ok(match written {
            Some(len) => {
                packed.set_len(len);
                (Codec::Zstd, packed)
            }
            None => (Codec::Store, plain),
        })
    }

    /// Whether not one of many pieces shrinks at all. zstd finds that out by itself, too, but only after it has copied what
    /// it found, and at 2 to 3 GB/s: half of what packing noise takes (docs/adr/0004).
    fn is_noise(&mut self, plain: &[u8]) -> Result<bool> {
        if plain.len() < PROBED_FROM_LEN {
            return Ok(false);
        }
        let probe = match &mut self.probe {
            Some(probe) => probe,
            none => {
                let mut context = CCtx::try_create().ok_or_else(out_of_memory)?;
                set(&mut context, CParameter::CompressionLevel(1))?;
                none.insert(context)
            }
        };
        let stride = (plain.len() - PROBE_PIECE_LEN) / (PROBE_PIECES - 1);
        let mut out = [0; PROBE_PIECE_LEN];
        for number in 0..PROBE_PIECES {
            let piece = &plain[number * stride..][..PROBE_PIECE_LEN];
            // Without room for more than would be a gain: most of what shrinks says so here at once.
            if compress_into(probe, piece, &mut out[..PROBE_PIECE_LEN - PROBE_PIECE_LEN / 256])?.is_some() {
                return Ok(false);
            }
        }
        Ok(!self.repeats(plain))
    }

    /// Whether two stretches of a chunk begin alike: copies of what looks like noise, as in archives and images of disks, where
    /// all begins at multiples of this length; or stretches of zeros.
    fn repeats(&mut self, plain: &[u8]) -> bool {
        const STRETCH: usize = 512;
        let places = (plain.len() / STRETCH * 2).next_power_of_two();
        self.beginnings.clear();
        self.beginnings.resize(places, 0);
        let mut beginnings = plain.chunks_exact(STRETCH).filter_map(|stretch| stretch.first_chunk().copied());
        beginnings.any(|beginning| {
            let word = u64::from_le_bytes(beginning);
            // Fibonacci hashing: the upper bits of the product are the place.
            let hash = word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - places.trailing_zeros().max(1));
            let place = usize::try_from(hash).unwrap_or(0) & (places - 1);
            std::mem::replace(&mut self.beginnings[place], word) == word
        })
    }

    /// A level by how much a sample shrinks at level 1: none for what does not, more work where it pays.
    fn level_for(&mut self, plain: &[u8]) -> Result<Option<i32>> {
        let piece = SAMPLE_PIECE_LEN.min(plain.len());
        let stride = (plain.len() - piece) / (SAMPLE_PIECES - 1);
        let sample: Vec<u8> = if plain.len() <= SAMPLE_PIECES * SAMPLE_PIECE_LEN {
            plain.to_vec()
        } else {
            (0..SAMPLE_PIECES).flat_map(|n| &plain[n * stride..n * stride + piece]).copied().collect()
        };
        set(&mut self.context, CParameter::CompressionLevel(1))?;
        let mut out = vec![0; sample.len()];
        let shrunk = compress_into(&mut self.context, &sample, &mut out)?.unwrap_or(sample.len());
        Ok(match shrunk * 100 / sample.len().max(1) {
            97.. => None,
            75..=96 => Some(1),
            40..=74 => Some(3),
            _ => Some(6),
        })
    }
}

/// One frame with its content size; `None` if it does not fit.
fn compress_into(context: &mut CCtx<'static>, plain: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    // `compress2` takes the whole input at once, which pledges its size; without that a context takes ten times more.
    context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
    match context.compress2(out, plain) {
        Ok(len) => Ok(Some(len)),
        Err(code) if is_too_small(code) => Ok(None),
        Err(code) => Err(zstd_error(code)),
    }
}

impl Stage for Compress {
    type In = PlainChunk;
    type Out = PackedChunk;
    const NAME: &'static str = "compress";

    fn process(&mut self, chunk: PlainChunk, emit: &mut dyn FnMut(PackedChunk) -> Result<()>) -> Result<()> {
        let PlainChunk { number, buf, parts } = chunk;
        let plain_len = u32::try_from(buf.len()).expect("chunks are at most 16 MiB");
        let (codec, buf) = if buf.is_empty() { (Codec::Store, buf) } else { self.compress(buf, parts.len() < 2)? };
        emit(PackedChunk { number, codec, plain_len, buf, parts })
    }
}

fn set(context: &mut CCtx<'static>, parameter: CParameter) -> Result<()> {
    context.set_parameter(parameter).map(|_| ()).map_err(zstd_error)
}

/// ZSTD_error_dstSize_tooSmall as a return value: the error's number, 70, counted down from the top.
fn is_too_small(code: usize) -> bool {
    code == 70_usize.wrapping_neg()
}

/// ZSTD_error_memory_allocation as a return value: 64, likewise.
fn is_out_of_memory(code: usize) -> bool {
    code == 64_usize.wrapping_neg()
}

fn zstd_error(code: usize) -> Error {
    if is_out_of_memory(code) {
        return out_of_memory();
    }
    Error::Usage(format!("zstd: {}", zstd::zstd_safe::get_error_name(code)))
}

fn out_of_memory() -> Error {
    Error::io(FileOp::Allocate, "a compression context", std::io::ErrorKind::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chunk is of one file.
    fn run(effort: Effort, plain: &[u8]) -> (Codec, Vec<u8>) {
        let pool = BufferPool::new(1 << 20);
        let mut compress = Compress::new(effort, pool.clone()).unwrap();
        let mut buf = pool.take().unwrap();
        buf.whole_mut()[..plain.len()].copy_from_slice(plain);
        buf.set_len(plain.len());
        let mut out = None;
        let chunk = PlainChunk { number: ChunkSeq(3), buf, parts: Vec::new() };
        let emitted = compress.process(chunk, &mut |packed| {
            assert_eq!(packed.plain_len as usize, plain.len());
            out = Some((packed.codec, packed.buf.as_slice().to_vec()));
            Ok(())
        });
        emitted.unwrap();
        out.unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn too_little_memory_is_the_systems_fault_and_not_the_users() {
        let code = 64_usize.wrapping_neg();
        assert_eq!(zstd::zstd_safe::get_error_name(code), "Allocation error : not enough memory");
        assert_eq!(zstd_error(code).kind(), crate::error::ErrorKind::Io);
        assert_eq!(zstd_error(40_usize.wrapping_neg()).kind(), crate::error::ErrorKind::Usage);
    }

    #[test]
    fn text_shrinks_and_comes_back() {
        let plain = b"the same words again and again ".repeat(1000);
        for effort in [Effort::Level(3), Effort::Level(-3), Effort::Level(19), Effort::BySample] {
            let (codec, packed) = run(effort, &plain);
            assert_eq!(codec, Codec::Zstd);
            assert!(packed.len() < plain.len() / 10);
            let content = zstd::zstd_safe::get_frame_content_size(&packed).unwrap();
            assert_eq!(content, Some(plain.len() as u64), "a reader needs the length in the frame");
            assert_eq!(zstd::bulk::decompress(&packed, plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        for len in [1, 17, 4096, 1 << 20] {
            let plain = noise(len);
            for effort in [Effort::Level(3), Effort::Store, Effort::BySample] {
                assert_eq!(run(effort, &plain), (Codec::Store, plain.clone()), "{effort:?} {len}");
            }
        }
    }

    #[test]
    fn what_looks_like_noise_and_repeats_is_compressed_all_the_same() {
        let once = noise(256 << 10);
        let copies = once.repeat(4);
        let (codec, packed) = run(Effort::Level(3), &copies);
        assert!(codec == Codec::Zstd && packed.len() < copies.len() / 2);
        // Noise where it is looked for, zeros elsewhere.
        let mut zeros = vec![0; 1 << 20];
        let stride = (zeros.len() - PROBE_PIECE_LEN) / (PROBE_PIECES - 1);
        for number in 0..PROBE_PIECES {
            zeros[number * stride..][..PROBE_PIECE_LEN]
                .copy_from_slice(&once[number * PROBE_PIECE_LEN..][..PROBE_PIECE_LEN]);
        }
        let (codec, packed) = run(Effort::Level(3), &zeros);
        assert!(codec == Codec::Zstd && packed.len() < zeros.len() / 4);
    }

    #[test]
    fn text_in_a_corner_of_noise_is_found() {
        let mut plain = noise(1 << 20);
        plain[700_000..735_000].fill(b'a');
        assert_eq!(run(Effort::Level(3), &plain).0, Codec::Zstd);
    }

    #[test]
    fn an_empty_chunk_passes() {
        assert_eq!(run(Effort::Level(3), b""), (Codec::Store, Vec::new()));
    }
}
