//! Ring "differential": the same packets on two paths, and what comes out compared: on eBPF and on the
//! kernel path, and on the fast path and on the standard path of eBPF.
//!
//! Two nodes that differ in `--datapath` or `--fast-path` alone get the same generated packets: right,
//! odd, damaged and hostile ones. Whatever leaves the wire, the pods and the tunnel device (which the
//! fast path goes around) must be the same on both, in the same order, but for what [`mask`] takes
//! out and [`known`] describes. Of the fast path these are streams of few flows, so that most packets
//! are of admitted ones; that they were is asserted.
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
