//! Standard output: what happens when it cannot be written, or nobody reads it any more.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd as _;

use flint_pipe::{Error, FileOp};

/// The name of standard output in errors.
const NAME: &str = "standard output";

/// Writes `text` to standard output; that nobody reads it is no error.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    checked(out.write_all(text.as_ref()).and_then(|()| out.flush()))
}

/// Turns the result of writing to standard output into one of ours: a broken pipe ends quietly.
pub(crate) fn checked(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io(FileOp::Write, NAME, error)),
        _ => Ok(()),
    }
}

/// Standard output for data: bytes as they are, no search for line ends, and a memory of how it broke.
#[derive(Debug)]
pub(crate) struct DataOut {
    out: BufWriter<Watched>,
}

impl DataOut {
    /// Standard output of this process, not buffered elsewhere.
    pub(crate) fn open() -> Result<Self, Error> {
        let fd = io::stdout().as_fd().try_clone_to_owned().map_err(|error| Error::io(FileOp::Open, NAME, error))?;
        Ok(Self { out: BufWriter::with_capacity(256 << 10, Watched { file: File::from(fd), broken: false }) })
    }

    /// Writes what is still in the buffer.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        checked(self.out.flush())
    }

    /// Whether whoever read it has gone.
    pub(crate) fn is_broken(&self) -> bool {
        self.out.get_ref().broken
    }
}

impl Write for DataOut {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that remembers whether its reader has gone.
#[derive(Debug)]
struct Watched {
    file: File,
    broken: bool,
}

impl Write for Watched {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let result = self.file.write(buf);
        self.broken |= matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_no_error_and_everything_else_is() {
        assert!(checked(Ok(())).is_ok());
        assert!(checked(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let error = checked(Err(io::ErrorKind::StorageFull.into())).expect_err("a full disk is an error");
        assert!(error.to_string().contains("standard output"), "{error}");
    }
}
