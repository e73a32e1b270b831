//! Which trees are packed? Two, small enough to stay in the page cache, and always the same ones.

use std::fs;
use std::path::Path;

use crate::content::{Content, Random};

/// A tree to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Corpus {
    /// 4,000 files of text, 0 to 16 KiB, 40 to a directory: 32 MiB, and what counts is the cost of a file.
    ManySmall,
    /// Four files of 24 MiB, two of text, one of noise and one of zeros: 96 MiB, and what counts is the cost of a byte.
    FewLarge,
}

impl Corpus {
    /// Writes the tree below `dir`, which must be there and empty, and says how many bytes its files have.
    pub(crate) fn write(self, dir: &Path) -> usize {
        match self {
            Self::ManySmall => many_small(dir),
            Self::FewLarge => few_large(dir),
        }
    }
}

fn many_small(dir: &Path) -> usize {
    let mut random = Random(1);
    let text = Content::Text.bytes(8 << 20, 2);
    let mut total = 0;
    for number in 0..4000 {
        let parent = dir.join(format!("d{:03}", number / 40));
        if number % 40 == 0 {
            fs::create_dir(&parent).expect("an empty directory was given");
        }
        let len = random.below(16 << 10);
        let from = random.below(text.len() - len);
        fs::write(parent.join(format!("file{number:04}.txt")), &text[from..from + len]).expect("there is room");
        total += len;
    }
    total
}

fn few_large(dir: &Path) -> usize {
    let len = 24 << 20;
    let files = [("one.txt", Content::Text), ("two.txt", Content::Text), ("three.bin", Content::Noise)];
    for (seed, (name, content)) in (0..).zip(files.into_iter().chain([("four.img", Content::Zeros)])) {
        fs::write(dir.join(name), content.bytes(len, seed)).expect("there is room");
    }
    4 * len
}
