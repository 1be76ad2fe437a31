//! Access to the bytes of a frame that lie in one piece: the linear part of a socket buffer, the first
//! buffer of a driver's frame.

use bytemuck::{AnyBitPattern, NoUninit, Pod};
use flannel_ebpf::wire::Addresses;

/// A frame whose first bytes can be read and written in place.
///
/// What changes where they are takes the frame mutably, so that nothing which was read before can be
/// used after it.
pub(crate) trait Bytes {
    /// Address of the first byte.
    fn start(&self) -> usize;

    /// Address behind the last byte.
    fn end(&self) -> usize;

    /// Address of a `T` at `offset`, if all of it is there.
    #[inline(always)]
    fn address<T>(&self, offset: usize) -> Option<usize> {
        let start = self.start() + offset;
        (start + size_of::<T>() <= self.end()).then_some(start)
    }

    /// A header at `offset`, if all of it is there.
    #[inline(always)]
    fn header<T: AnyBitPattern>(&self, offset: usize) -> Option<&T> {
        const { assert!(align_of::<T>() == 1) };
        let start = self.address::<T>(offset)?;
        // SAFETY: in bounds as just checked, alignment 1, and any bytes are a `T`.
        Some(unsafe { &*(start as *const T) })
    }

    /// The same, to be changed in place. The checksums that the kernel keeps beside a packet are not
    /// touched, so this is for bytes outside of them or changes that sum to zero.
    #[inline(always)]
    fn header_mut<T: Pod>(&mut self, offset: usize) -> Option<&mut T> {
        const { assert!(align_of::<T>() == 1) };
        let start = self.address::<T>(offset)?;
        // SAFETY: as above, and nothing else refers to the frame while it is borrowed for this.
        Some(unsafe { &mut *(start as *mut T) })
    }

    /// Overwrites bytes at `offset`, as in [`header_mut`](Self::header_mut); false if they are not
    /// there.
    #[inline(always)]
    fn write<T: NoUninit>(&mut self, offset: usize, value: &T) -> bool {
        let Some(start) = self.address::<T>(offset) else {
            return false;
        };
        // SAFETY: in bounds as just checked, and nothing refers to the frame while it is borrowed.
        unsafe { (start as *mut T).write_unaligned(*value) };
        true
    }

    /// Overwrites the addresses of the link-layer header; false if it is not there.
    #[inline(always)]
    fn set_addresses(&mut self, addresses: Addresses) -> bool {
        self.write(0, &addresses)
    }
}
