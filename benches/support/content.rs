//! What bytes are measured? Three kinds, always the same ones: everything follows from a seed that is written here.

mod random;

pub(crate) use random::Random;

/// What a chunk or a file is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Words and punctuation, as in source code: zstd level 3 makes a quarter to a third of it.
    Text,
    /// Random bytes, as in what is compressed already: nothing makes it shorter.
    Noise,
    /// Nothing but zeros.
    Zeros,
}

impl Content {
    /// `len` bytes of this kind; another seed gives others.
    pub(crate) fn bytes(self, len: usize, seed: u64) -> Vec<u8> {
        let mut random = Random(seed);
        match self {
            Self::Text => text(len, &mut random),
            Self::Noise => noise(len, &mut random),
            Self::Zeros => vec![0; len],
        }
    }
}

fn noise(len: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Words from a list of 2,000, the early ones far more often, a few to a line.
fn text(len: usize, random: &mut Random) -> Vec<u8> {
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|_| (0..2 + random.below(9)).map(|_| b"etaoinsrhldcumfpgwybvk_"[random.below(23)]).collect())
        .collect();
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        for _ in 0..1 + random.below(9) {
            // The product of two draws is small far more often than large, as the ranks of words are.
            let rank = random.below(words.len()) * random.below(words.len()) / words.len();
            bytes.extend_from_slice(&words[rank]);
            bytes.push(b" (),;.*="[random.below(8)]);
        }
        bytes.push(b'\n');
        bytes.resize(bytes.len() + 4 * random.below(4), b' ');
    }
    bytes.truncate(len);
    bytes
}
