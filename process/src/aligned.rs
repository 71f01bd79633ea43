//! Reads at the kernel's full speed, wherever the bytes are to go.
//!
//! On processors with fast short moves the kernel copies by one instruction, `rep movsb`. On AMD EPYC this takes three to
//! six times as long if the target is not a multiple of 32 (`docs/performance.md` has figures), and hardly any buffer is:
//! large allocations begin 16 bytes after a page, messages and guests' buffers begin anywhere. So what is to go to such an
//! address is read into a small buffer of the thread, which stays in the processor's cache, and copied from there.

use std::{
    cell::Cell,
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll, ready},
};

use distwasm_proto::limits::{ALIGNED_BYTES, ALIGNED_FROM_BYTES};
use tokio::io::{AsyncRead, ReadBuf};

/// A line of the processor's cache.
const ALIGNMENT: usize = align_of::<Buffer>();

#[repr(align(64))]
struct Buffer([u8; ALIGNED_BYTES]);

thread_local! {
    static BUFFER: Cell<Option<Box<Buffer>>> = const { Cell::new(None) };
}

/// Calls `read` with the first `bytes_max` bytes of the thread's buffer, or all of it.
fn with_buffer<T>(bytes_max: usize, read: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFER.take().unwrap_or_else(|| Box::new(Buffer([0; ALIGNED_BYTES])));
    let (part, _) = buffer.0.split_at_mut(bytes_max.min(ALIGNED_BYTES));
    let result = read(part);
    BUFFER.set(Some(buffer));
    result
}

/// Whether the kernel may copy slowly to this target.
fn is_slow(target: *const u8, bytes: usize) -> bool {
    bytes >= ALIGNED_FROM_BYTES && !target.addr().is_multiple_of(ALIGNMENT)
}

/// A source that is read at full speed into any buffer.
#[derive(Debug)]
pub struct Aligned<R>(pub R);

impl<R: Read> Aligned<R> {
    /// Appends `bytes` bytes to `target`, or all up to the end of the source.
    ///
    /// # Errors
    ///
    /// When the source cannot be read. What was read before is in `target`.
    pub fn append(&mut self, target: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
        let mut missing = bytes;
        while missing > 0 {
            let appended: io::Result<usize> = with_buffer(missing, |buffer| {
                let count = self.0.read(buffer)?;
                target.extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(count)
            });
            match appended {
                Ok(0) => break,
                Ok(count) => missing -= count.min(missing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Aligned<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if !is_slow(target.as_ptr(), target.len()) {
            return self.0.read(target);
        }
        with_buffer(target.len(), |buffer| {
            let count = self.0.read(buffer)?;
            if let (Some(target), Some(read)) = (target.get_mut(..count), buffer.get(..count)) {
                target.copy_from_slice(read);
            }
            Ok(count)
        })
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Aligned<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let source = Pin::new(&mut self.0);
        // SAFETY: nothing is written there, only the address is looked at.
        let address = unsafe { target.unfilled_mut() }.as_ptr().cast();
        if !is_slow(address, target.remaining()) {
            return source.poll_read(context, target);
        }
        with_buffer(target.remaining(), |buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(source.poll_read(context, &mut buffer))?;
            target.put_slice(buffer.filled());
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// Notes to which addresses, modulo a line, and how much is read. Gives the bytes 0, 1, 2, …
    #[derive(Default)]
    struct Noting {
        reads: Vec<(usize, usize)>,
        next: u8,
    }

    impl Read for Noting {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            self.reads.push((target.as_ptr().addr() % ALIGNMENT, target.len()));
            for byte in &mut *target {
                *byte = self.next;
                self.next = self.next.wrapping_add(1);
            }
            Ok(target.len())
        }
    }

    fn counted(first: usize, bytes: usize) -> Vec<u8> {
        (first..first + bytes).map(|number| number as u8).collect()
    }

    #[test]
    fn large_reads_go_to_aligned_addresses_and_small_ones_where_they_should() {
        let mut source = Aligned(Noting::default());
        let mut memory = vec![0; 4 * ALIGNED_BYTES];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        assert_eq!(source.read(&mut memory[start..][..ALIGNED_FROM_BYTES]).unwrap(), ALIGNED_FROM_BYTES);
        assert_eq!(source.read(&mut memory[start + 20..][..ALIGNED_BYTES + 1]).unwrap(), ALIGNED_BYTES);
        assert_eq!(memory[start + 20..][..ALIGNED_BYTES], counted(ALIGNED_FROM_BYTES, ALIGNED_BYTES));
        assert_eq!(source.read(&mut memory[start + 20..][..20]).unwrap(), 20);
        assert_eq!(source.0.reads, [(0, ALIGNED_FROM_BYTES), (0, ALIGNED_BYTES), (20, 20)]);
        let mut appended = b"before".to_vec();
        source.0 = Noting::default();
        source.append(&mut appended, ALIGNED_BYTES + 5).unwrap();
        assert_eq!(source.0.reads, [(0, ALIGNED_BYTES), (0, 5)]);
        assert_eq!((&appended[..6], &appended[6..]), (&b"before"[..], &counted(0, ALIGNED_BYTES + 5)[..]));
    }

    #[test]
    fn a_source_that_ends_early_gives_what_it_has() {
        let mut appended = Vec::new();
        Aligned(&b"short"[..]).append(&mut appended, 1 << 20).unwrap();
        assert_eq!(appended, b"short");
    }

    #[tokio::test]
    async fn the_same_holds_for_sources_that_are_polled() {
        let bytes = counted(0, 3 * ALIGNED_BYTES);
        let mut source = Aligned(Cursor::new(bytes.clone()));
        let mut read = vec![7];
        AsyncReadExt::read_to_end(&mut source, &mut read).await.unwrap();
        assert_eq!(read[1..], bytes);
    }
}
