//! Ring "differential": the same packets through eBPF and through the kernel path, and what comes
//! out compared.
//!
//! Two nodes that differ in `--datapath` alone get the same generated packets: right, odd, damaged
//! and hostile ones. Whatever leaves the wire, the pods and the tunnel device must be the same on
//! both, in the same order, but for what [`mask`] takes out and [`known`] describes.
//!
//! Seeds are printed. `FLANNEL_DIFFERENTIAL_SEED` repeats a run, `FLANNEL_DIFFERENTIAL_PERCENT`
//! sends more or fewer packets. A difference is reduced to the packet that makes it and printed as
//! a row for [`rows`].

mod backend;
mod generate;
mod known;
mod lane;
mod lanes;
mod mask;
mod pair;
mod reduce;
mod rows;
mod socket;
mod twin;
mod world;
