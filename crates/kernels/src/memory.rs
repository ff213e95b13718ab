//! Large zeroed allocations, aligned to cache lines and on huge pages where the system has them.
//!
//! Weights are read from end to end for every token. With 4 KiB pages that is a walk of the page table every 64
//! cache lines; 2 MiB pages do away with it, and make the first touch of a model some 500 times fewer faults.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

const CACHE_LINE: usize = 64;
/// Allocations below this stay on ordinary pages.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of zeroed bytes, aligned to 64.
pub struct Buffer {
    ptr: NonNull<u8>,
    len: usize,
    /// Bytes mapped from the system, or 0 if the memory is the allocator's.
    mapped_len: usize,
}

// SAFETY: the buffer owns its memory, and hands it out by the usual borrowing rules.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeroed bytes.
    pub fn zeroed(len: usize) -> Buffer {
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE
            && let Some(buffer) = Buffer::map_huge(len)
        {
            return buffer;
        }
        let layout = Buffer::layout(len);
        // SAFETY: the layout's size is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout));
        Buffer { ptr, len, mapped_len: 0 }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len.max(1), CACHE_LINE).expect("allocation exceeds the address space")
    }

    #[cfg(target_os = "linux")]
    fn map_huge(len: usize) -> Option<Buffer> {
        let mapped_len = len.checked_next_multiple_of(HUGE_PAGE)?;
        // SAFETY: a new private anonymous mapping touches no memory of ours.
        unsafe {
            let ptr = libc::mmap(
                std::ptr::null_mut(),
                mapped_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if ptr == libc::MAP_FAILED {
                return None;
            }
            // Advice: if the system declines, the memory is on ordinary pages.
            libc::madvise(ptr, mapped_len, libc::MADV_HUGEPAGE);
            Some(Buffer { ptr: NonNull::new(ptr.cast())?, len, mapped_len })
        }
    }

    /// The buffer in parts of `part_len` bytes, a multiple of 64, as many as fit: each with an owner of its own. The
    /// memory is given back with the last of them.
    pub(crate) fn into_parts(self, part_len: usize) -> impl Iterator<Item = BufferPart> {
        assert!(part_len.is_multiple_of(CACHE_LINE));
        let n_parts = self.len / part_len.max(1);
        let buffer = Arc::new(self);
        (0..n_parts).map(move |i| BufferPart {
            buffer: Arc::clone(&buffer),
            start: i * part_len,
            len: part_len,
        })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes are ours and initialised (zeroed at first).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

/// Returns to the system what this process has freed and its allocator keeps for later: between two steps of a long job
/// that need memory for different things. Does nothing where the allocator is not glibc's.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it only releases pages that hold nothing.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The floats that the bytes are, in this machine's byte order.
///
/// # Panics
/// If the bytes are not aligned to a float, or no whole number of them.
pub fn floats(bytes: &[u8]) -> &[f32] {
    check_floats(bytes);
    // SAFETY: aligned, of this many floats, and any bits are a float.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<f32>()) }
}

/// As [`floats`], to write.
pub fn floats_mut(bytes: &mut [u8]) -> &mut [f32] {
    check_floats(bytes);
    // SAFETY: as above, and any float is bytes.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<f32>()) }
}

fn check_floats(bytes: &[u8]) {
    assert!(bytes.as_ptr().cast::<f32>().is_aligned() && bytes.len().is_multiple_of(size_of::<f32>()));
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.mapped_len > 0 {
            #[cfg(target_os = "linux")]
            // SAFETY: the mapping is ours, and of this length.
            unsafe {
                libc::munmap(self.ptr.as_ptr().cast(), self.mapped_len);
            }
        } else {
            // SAFETY: allocated with this very layout.
            unsafe { dealloc(self.ptr.as_ptr(), Buffer::layout(self.len)) }
        }
    }
}

/// A part of a [`Buffer`] that no other part overlaps.
pub(crate) struct BufferPart {
    /// Reached through its parts alone.
    buffer: Arc<Buffer>,
    start: usize,
    len: usize,
}

impl BufferPart {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is within the buffer, and only this part reaches it.
        unsafe { std::slice::from_raw_parts(self.buffer.ptr.as_ptr().add(self.start), self.len) }
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.ptr.as_ptr().add(self.start), self.len) }
    }
}

impl std::fmt::Debug for BufferPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufferPart({} bytes)", self.len)
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}
