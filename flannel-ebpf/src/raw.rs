//! A frame as the driver has it, before there is a socket buffer: what an XDP program meets.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use flannel_ebpf::abi::Stripped;

use crate::bytes::Bytes;

/// What an XDP program answers.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Verdict {
    /// On with the frame, changed or not.
    Pass = xdp_action::XDP_PASS,
    /// Dropped: only ever a frame that could neither be finished nor restored.
    Dropped = xdp_action::XDP_DROP,
}

/// A frame.
pub(crate) struct Raw {
    context: XdpContext,
}

impl Bytes for Raw {
    #[inline(always)]
    fn start(&self) -> usize {
        self.context.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.context.data_end()
    }
}

impl Raw {
    /// Takes the context of a program's invocation.
    #[inline(always)]
    pub(crate) fn new(context: XdpContext) -> Self {
        Self { context }
    }

    /// Length of the frame, bytes, in however many buffers it is (Linux 5.18).
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: a plain helper call on a valid context.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) as u32 }
    }

    /// Puts a note beside the frame, which the TC program on the same interface finds; false where
    /// the driver has no room for notes.
    #[inline(always)]
    pub(crate) fn set_note(&mut self, note: &Stripped) -> bool {
        // SAFETY: a plain helper call on a valid context.
        if unsafe { bpf_xdp_adjust_meta(self.context.ctx, -(size_of::<Stripped>() as i32)) } != 0 {
            return false;
        }
        let start = self.context.metadata();
        if start + size_of::<Stripped>() > self.context.data() {
            return false;
        }
        // SAFETY: in bounds as just checked, and the memory beside the frame is the program's.
        unsafe { (start as *mut Stripped).write_unaligned(*note) };
        true
    }

    /// Takes bytes off the front.
    #[inline(always)]
    pub(crate) fn remove_front(&mut self, len: usize) -> bool {
        // SAFETY: a plain helper call on a valid context.
        unsafe { bpf_xdp_adjust_head(self.context.ctx, len as i32) == 0 }
    }
}
